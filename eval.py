"""Score checkpoints on their test cases, or stored predictions against references: `umamba evaluate` in a checkout.

python eval.py ckpt_path=logs/.../checkpoints/last.ckpt output=scores
python eval.py ckpt_path=[a.ckpt,b.ckpt] ensemble=true mirror=true output=scores
python eval.py predictions=FOLDER references=FOLDER nsd_tolerance=2 output=scores
"""

from umamba.help import exit_with_help

if __name__ == "__main__":
    exit_with_help(__doc__, "eval")
    from umamba.evaluation.__main__ import main
    from umamba.run.command import run_command

    run_command(main)
