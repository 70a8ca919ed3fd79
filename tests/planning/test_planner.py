"""The planner against published nnU-Net plans, the paper's Table 2, and its own laws."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from umamba.planning.fingerprint import Fingerprint
from umamba.planning.intensities import Intensities
from umamba.planning.normalization import say_near_misses
from umamba.planning.options import PRESETS, PlannerOptions
from umamba.planning.plan import Plan
from umamba.planning.planner import plan_dataset, target_spacing
from umamba.planning.topology import plain_unet_cost, residual_unet_cost
from umamba.raw.description import DatasetDescription

STATISTICS = Intensities(
    mean=100.0, median=90.0, std=30.0, min=-50.0, max=400.0, percentile_00_5=-20.0, percentile_99_5=300.0
)


def fingerprint_of(spacings, shapes, channels=1, relative=1.0) -> Fingerprint:
    return Fingerprint(
        spacings=tuple(map(tuple, spacings)),
        shapes_after_crop=tuple(map(tuple, shapes)),
        intensities=(STATISTICS,) * channels,
        median_relative_size=relative,
    )


def description_of(labels, cases, channels=("MR",), ignore=None) -> DatasetDescription:
    return DatasetDescription(
        name="Test",
        channel_names=tuple(channels),
        labels={"background": 0, **{f"class_{i}": i for i in range(1, labels)}},
        ignore_label=ignore,
        file_ending=".nii.gz",
        num_training=cases,
    )


def plan_one(spacing, shape, labels, rule="2.1", cases=1000, **options) -> Plan:
    """The plan of cases that are all alike; two shapes around it give a fractional median."""
    if any(edge != int(edge) for edge in shape):
        low, high = tuple(math.floor(e) for e in shape), tuple(math.ceil(e) for e in shape)
        shapes, spacings = [low, high], [spacing] * 2
    else:
        shapes, spacings = [shape], [spacing]
    return plan_dataset(
        fingerprint_of(spacings, shapes), description_of(labels, cases), PlannerOptions(rule=rule, **options)
    )


def plan_2d(spacing, shape, labels, rule, **options):
    return plan_one((999.0, *spacing), (1, *shape), labels, rule, **options).configuration("2d")


# Numbers of vectors 1 and 6 to 9: real nnU-Net output, the latter as printed in nnUNet issues 2251, 1768, 2094, 2227.
@pytest.mark.parametrize(
    ("rule", "spacing", "shape", "labels", "patch", "batch", "stages", "estimate"),
    [
        ("2.1", (1, 1), (1080, 1920), 8, (384, 640), 13, 7, 78_827_520),
        ("2.1", (1, 1), (512, 512), 3, (512, 512), 12, 8, 82_886_656),
        ("2.8", (1, 1), (512, 512), 3, (512, 512), 12, 8, 82_886_656),
        ("2.1", (1.19, 1.19), (260, 320), 14, (320, 320), 30, 7, 33_459_200),
        ("2.8", (1.19, 1.19), (260, 320), 14, (320, 320), 30, 7, 33_459_200),
        ("2.8", (1, 1), (2848, 4288), 2, (1024, 1536), 2, None, None),
        ("2.8", (1, 1), (2848, 4288), 3, (1024, 1536), 2, None, None),
        ("2.8", (1, 1), (2848, 4288), 14, (896, 1536), 2, None, None),
        ("2.1", (0.78125, 0.78125), (512, 512), 4, (512, 512), 12, 8, None),
        ("2.8", (0.78125, 0.78125), (512, 512), 4, (512, 512), 12, 8, None),
        ("2.8", (1, 1), (1080, 1920), 8, (896, 1536), 2, 9, None),
        ("2.1", (0.8, 0.8), (512, 512), 14, (512, 448), 14, 7, None),
        ("2.8", (0.8, 0.8), (512, 512), 14, (512, 512), 12, 8, None),
    ],
)
def test_published_2d_plans(rule, spacing, shape, labels, patch, batch, stages, estimate):
    planned = plan_2d(spacing, shape, labels, rule)
    assert (planned.patch_size, planned.batch_size) == (patch, batch)
    assert stages is None or len(planned.strides) == stages
    assert estimate is None or planned.estimate == estimate


@pytest.mark.parametrize("rule", ["2.1", "2.8"])
@pytest.mark.parametrize(
    ("spacing", "shape", "labels", "patch", "batch", "estimate"),
    [
        ((2.5, 0.8, 0.8), (97, 512, 512), 14, (40, 224, 192), 2, 481_447_680),
        ((3, 1.2, 1.2), (72, 260, 320), 14, (48, 160, 224), 2, None),
        ((1.545, 0.8067, 0.8067), (138.83, 497.09, 497.09), 3, (56, 224, 192), None, None),
        ((1.2823, 0.80871, 0.80871), (244.66, 497.09, 497.09), 3, (80, 192, 160), None, None),
    ],
)
def test_published_3d_plans(rule, spacing, shape, labels, patch, batch, estimate):
    planned = plan_one(spacing, shape, labels, rule).configuration("3d_fullres")
    assert planned.patch_size == patch
    assert batch is None or planned.batch_size == batch
    assert estimate is None or planned.estimate == estimate


def test_strides_and_kernels_of_the_abdomen_sets():
    for spacing, shape in (((2.5, 0.8, 0.8), (97, 512, 512)), ((3, 1.2, 1.2), (72, 260, 320))):
        planned = plan_one(spacing, shape, 14).configuration("3d_fullres")
        assert planned.strides == ((1, 1, 1), (1, 2, 2), (2, 2, 2), (2, 2, 2), (2, 2, 2), (1, 2, 2))
        assert planned.kernel_sizes == ((1, 3, 3),) + ((3, 3, 3),) * 5
        assert planned.features_per_stage == (32, 64, 128, 256, 320, 320)


def test_table_2_of_the_paper():
    """Patch, batch, stages and pooling per axis of all five settings, under the default options."""

    def row(planned):
        pooling = tuple(int(math.log2(total)) for total in planned.total_stride)
        return planned.patch_size, planned.batch_size, len(planned.strides), pooling

    ct = plan_one((2.5, 0.8, 0.8), (97, 512, 512), 14, cases=50)
    mr = plan_one((3, 1.2, 1.2), (72, 260, 320), 14, cases=60)
    endoscopy = plan_one((999, 1, 1), (1, 1080, 1920), 8, cases=1800)
    cells = plan_one((999, 1, 1), (1, 512, 512), 3, cases=1000)
    assert row(ct.configuration("3d_fullres")) == ((40, 224, 192), 2, 6, (3, 5, 5))
    assert row(mr.configuration("3d_fullres")) == ((48, 160, 224), 2, 6, (3, 5, 5))
    assert row(plan_2d((1.19, 1.19), (260, 320), 14, "2.1", cases=60 * 72)) == ((320, 320), 30, 7, (6, 6))
    assert row(endoscopy.configuration("2d")) == ((384, 640), 13, 7, (6, 6))
    assert row(cells.configuration("2d")) == ((512, 512), 12, 8, (7, 7))
    assert list(endoscopy.configurations) == ["2d"]


def test_residual_estimates():
    """Check values of nnU-Net's ResEnc networks: 3 labels, kernels of 3."""
    features = (32, 64, 128, 256, 320, 320)
    strides = ((1,) * 3,) + ((2,) * 3,) * 5
    assert residual_unet_cost((128,) * 3, strides, features, 3, blocks=(1, 3, 4, 6, 6, 6)) == 557_420_544
    features = (32, 64, 128, 256, 512, 512, 512)
    strides = ((1,) * 2,) + ((2,) * 2,) * 6
    assert residual_unet_cost((512,) * 2, strides, features, 3, blocks=(1, 3, 4, 6, 6, 6, 6)) == 129_531_904


def test_plain_estimate_counts_every_feature_map():
    # 8 x 8, one stride: encoder 2*2*64 + 2*4*16, decoder (1 + 2)*2*64, head 5*64.
    assert plain_unet_cost((8, 8), ((1, 1), (2, 2)), (2, 4), 5) == 256 + 128 + 384 + 320


def test_every_label_entry_counts_towards_the_estimate():
    def estimate(description):
        fingerprint = fingerprint_of([(999, 1, 1)], [(1, 64, 64)])
        return plan_dataset(fingerprint, description, PlannerOptions()).configuration("2d").estimate

    plain, ignoring = description_of(3, 5), description_of(3, 5, ignore=3)
    assert estimate(ignoring) - estimate(plain) == 64 * 64


def test_thick_slices_get_the_tenth_percentile():
    spacings = [(z, 1.0, 1.0) for z in (4.0, 5.0, 6.0, 10.0, 10.0, 10.0)]
    fingerprint = fingerprint_of(spacings, [(20, 200, 200)] * 6)
    assert target_spacing(fingerprint).tolist() == [4.5, 1.0, 1.0]  # numpy's linear percentile: half-way from 4 to 5
    long = fingerprint_of(spacings, [(100, 200, 200)] * 6)
    assert target_spacing(long).tolist() == [8.0, 1.0, 1.0]  # as many voxels along z: the median stays


def test_coarsest_axis_comes_first():
    plan = plan_one((0.7, 0.7, 5.0), (256, 256, 30), 3)
    assert plan.transpose_forward == (2, 0, 1)
    assert plan.transpose_backward == (1, 2, 0)
    assert plan.configuration("2d").spacing == (0.7, 0.7)
    assert plan.original_median_shape == (256.0, 256.0, 30.0)


def test_low_resolution_stage():
    big = plan_one((1.0, 0.8, 0.8), (500, 512, 512), 14)
    assert list(big.configurations) == ["2d", "3d_fullres", "3d_lowres", "3d_cascade_fullres"]
    low, full = big.configuration("3d_lowres"), big.configuration("3d_fullres")
    unrounded = math.prod(full.median_shape) * math.prod(full.spacing) / math.prod(low.spacing)
    assert math.prod(low.patch_size) >= 0.25 * unrounded
    assert (low.batch_dice, full.batch_dice, big.configuration("2d").batch_dice) == (False, True, True)
    cascade = big.configuration("3d_cascade_fullres")
    assert cascade.previous_stage == "3d_lowres" and cascade.patch_size == full.patch_size
    small = plan_one((1.0, 1.0, 1.0), (100, 100, 100), 3)
    assert "3d_lowres" not in small.configurations
    assert small.configuration("3d_fullres").batch_dice is False


def test_rule_28_drops_a_low_resolution_that_saves_little():
    spacing, shape = (1.0, 1.0, 1.0), (200, 220, 200)
    assert "3d_lowres" in plan_one(spacing, shape, 3).configurations
    assert "3d_lowres" not in plan_one(spacing, shape, 3, rule="2.8").configurations


def test_options_change_the_budget():
    small = plan_one((1, 1, 1), (300, 300, 300), 3, memory_gb=4).configuration("3d_fullres")
    large = plan_one((1, 1, 1), (300, 300, 300), 3, memory_gb=24).configuration("3d_fullres")
    assert math.prod(small.patch_size) < math.prod(large.patch_size)
    narrow = plan_one((1, 1, 1), (64, 64, 64), 3, base_features=8).configuration("3d_fullres")
    assert narrow.features_per_stage[:3] == (8, 16, 32)


@pytest.mark.parametrize("rule", ["2.1", "2.8"])
def test_a_name_that_nearly_has_a_normalization_is_said(caplog, rule):
    say_near_misses(("CT", "noNorm", "T2", "CT_venous", "contrast", "rescale to 0-1", "MR"), rule)
    first, second = caplog.messages
    assert first.startswith(
        "Channel 'CT_venous' gets a z-score of each image: only a channel that is called exactly 'CT'"
    )
    assert second.startswith("Channel 'rescale to 0-1' gets") and "'rescale_to_0_1'" in second


def test_planning_says_that_the_case_of_a_name_counts_under_rule_21(caplog):
    fingerprint, description = fingerprint_of([(1, 1, 1)], [(64, 64, 64)]), description_of(2, 5, ("ct",))
    plan_dataset(fingerprint, description, PlannerOptions(rule="2.8"))
    assert not caplog.messages
    plan_dataset(fingerprint, description, PlannerOptions(rule="2.1"))
    assert "Channel 'ct' gets a z-score" in caplog.text and "(rule 2.8 takes it in any case)" in caplog.text


def test_normalization_follows_channel_name_and_cropping():
    def normalization(names, rule, relative):
        fingerprint = fingerprint_of([(1, 1, 1)], [(64, 64, 64)], channels=len(names), relative=relative)
        plan = plan_dataset(fingerprint, description_of(2, 5, names), PlannerOptions(rule=rule))
        entry = plan.configuration("3d_fullres")
        return entry.normalization, entry.use_mask_for_norm

    names = ("CT", "ct", "MR", "noNorm", "rescale_to_0_1", "rgb_to_0_1")
    ct, z = "CTNormalization", "ZScoreNormalization"
    rest = ("NoNormalization", "RescaleTo01Normalization", "RGBTo01Normalization")
    assert normalization(names, "2.1", 0.5) == ((ct, z, z, *rest), (False, True, True, False, False, False))
    assert normalization(names, "2.8", 0.5) == ((ct, ct, z, *rest), (False, False, True, False, False, False))
    assert normalization(names, "2.1", 0.75)[1] == (False,) * 6


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"rule": "3"}, "planning.rule = '3': expected one of 2.1, 2.8"),
        ({"preset": "huge"}, "planning.preset = 'huge': expected one of default, resenc_m"),
        ({"memory_gb": 0}, "planning.memory_gb = 0"),
        ({"memory_gb": math.nan}, "planning.memory_gb = nan"),
        ({"base_features": 0}, "planning.base_features = 0"),
    ],
)
def test_impossible_options_are_refused(option, message):
    with pytest.raises(ValueError, match=message.replace(".", r"\.")):
        PlannerOptions(**option)


def test_a_thin_volume_is_shrunk_in_plane_when_it_cannot_get_thinner():
    planned = plan_one((1, 1, 1), (3, 400, 400), 3, memory_gb=0.01).configuration("3d_fullres")
    assert planned.estimate <= planned.reference
    assert planned.patch_size[0] == 1 and 8 <= planned.patch_size[1] < 400


def test_a_budget_that_nothing_fits_is_refused():
    with pytest.raises(ValueError, match="No patch fits 1e-06 GB.*Raise planning.memory_gb"):
        plan_one((1, 1, 1), (64, 64, 64), 3, memory_gb=1e-6)


spacing_values = st.floats(0.3, 8.0)
edges = st.integers(1, 700)


@st.composite
def fingerprints(draw):
    dims3 = draw(st.booleans())
    cases = draw(st.integers(1, 4))
    if dims3:
        spacings = [tuple(draw(spacing_values) for _ in range(3)) for _ in range(cases)]
        shapes = [tuple(draw(edges) for _ in range(3)) for _ in range(cases)]
    else:
        spacings = [(999.0, 1.0, 1.0)] * cases
        shapes = [(1, draw(st.integers(8, 3000)), draw(st.integers(8, 3000))) for _ in range(cases)]
    return fingerprint_of(spacings, shapes)


@settings(max_examples=150, deadline=None)
@given(
    fingerprint=fingerprints(),
    labels=st.integers(2, 20),
    cases=st.integers(1, 500),
    rule=st.sampled_from(["2.1", "2.8"]),
    preset=st.sampled_from(sorted(PRESETS)),
)
def test_laws_of_every_plan(fingerprint, labels, cases, rule, preset):
    plan = plan_dataset(fingerprint, description_of(labels, cases), PlannerOptions(rule=rule, preset=preset))
    assert Plan.from_dict(plan.to_dict()) == plan
    for entry in plan.configurations.values():
        assert all(size % total == 0 for size, total in zip(entry.patch_size, entry.total_stride, strict=True))
        # A feature map has an edge of at least 4, unless the image itself has not.
        for size, total in zip(entry.patch_size, entry.total_stride, strict=True):
            assert size // total >= min(4, size)
        assert entry.batch_size >= 2
        in_batch = entry.batch_size * math.prod(entry.patch_size)
        if rule == "2.8" and entry.spatial_dims == 2 and preset == "default":
            assert entry.estimate * 2 / 12 <= entry.reference
        else:
            assert entry.estimate <= entry.reference
        if entry.batch_size > 2 and preset == "default":
            # In 2D too the whole volumes count.
            whole = plan.configurations.get("3d_fullres", entry) if entry.name == "2d" else entry
            voxels = math.prod(whole.median_shape) * cases
            # The share is rounded to whole patches, so half a patch may come on top.
            assert in_batch <= 0.05 * voxels + 0.5 * math.prod(entry.patch_size) + 1e-6 * voxels
