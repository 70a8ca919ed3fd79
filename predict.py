"""Segment the images of a folder with a trained checkpoint: `umamba predict` in a checkout.

python predict.py checkpoint=logs/.../checkpoints/last.ckpt input=images output=predictions
python predict.py checkpoint=logs/.../cross_validation input=images output=predictions     # five folds, averaged
python predict.py checkpoint=last.ckpt input=images output=predictions mirror=true device=cpu
"""

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "predict")
    from umamba.inference.__main__ import main
    from umamba.run.command import run_command

    run_command(main)
