from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from umamba.datamodules.custom import CustomDataModule
from umamba.datamodules.splits import make_group_splits, make_splits, select_split

NAMES = [f"case_{i:03d}" for i in range(12)]
# Validation cases of scikit-learn 1.9.1: KFold(5, shuffle=True, random_state=12345).split(range(n)).
SKLEARN_12 = [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]
SKLEARN_200_FIRST_SIX = [
    [10, 16, 17, 20, 27, 50],
    [2, 4, 13, 19, 24, 28],
    [3, 6, 8, 9, 15, 18],
    [0, 5, 12, 14, 22, 26],
    [1, 7, 11, 23, 29, 31],
]


def test_splits_are_those_of_scikit_learn() -> None:
    splits = make_splits(NAMES[::-1])  # the order given does not matter
    assert [list(split.val) for split in splits] == [[NAMES[i] for i in fold] for fold in SKLEARN_12]
    many = make_splits([f"{i:04d}" for i in range(200)])
    assert [[int(name) for name in split.val[:6]] for split in many] == SKLEARN_200_FIRST_SIX


@given(st.integers(5, 60))
def test_folds_share_out_the_cases(count: int) -> None:
    names = [f"{i:03d}" for i in range(count)]
    splits = make_splits(names)
    assert sorted(name for split in splits for name in split.val) == names
    for split in splits:
        assert sorted((*split.train, *split.val)) == names
        assert len(split.val) in (count // 5, -(-count // 5))


def test_fold_all_trains_on_and_validates_with_every_case() -> None:
    split = select_split(["b", "a"], "all")
    assert split.train == split.val == ("a", "b")


def test_splits_final_json_is_honoured(tmp_path) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": NAMES[1:], "val": NAMES[:1]}]))
    assert select_split(NAMES, 0, [tmp_path / "elsewhere", tmp_path]).val == ("case_000",)
    with pytest.raises(ValueError, match='fold must be 0 to 0 or "all", it is 1'):
        select_split(NAMES, 1, [tmp_path])


@pytest.mark.parametrize("fold", [5, -1, "0", True, None])
def test_a_fold_that_does_not_exist(fold) -> None:
    with pytest.raises(ValueError, match='must be 0 to 4 or "all"'):
        select_split(NAMES, fold)


def test_too_few_cases_for_folds() -> None:
    with pytest.raises(ValueError, match="at least 5 training cases, there are 3. Set fold=all"):
        select_split(NAMES[:3], 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "must be a list of folds"),
        ("[]", "must be a list of folds .*it has none"),
        ('[{"train": ["case_000"]}]', "must be a list of folds"),
        ('{"fold": 1}', "must be a list of folds"),
        (
            '[{"train": ["case_000"], "val": ["nobody"]}]',
            r"fold 0: 1 case\(s\) not in the data set \(which has 'case_000', ...\): 'nobody'",
        ),
        ('[{"train": ["case_000"], "val": []}]', "at least one training and one validation case"),
        (
            '[{"train": ["case_000", "case_001"], "val": ["case_001"]}]',
            r"fold 0: 1 case\(s\) in both train and val: 'case_001'",
        ),
        ('[{"train": ["case_000", "case_000"], "val": ["case_001"]}]', r"1 case\(s\) named twice: 'case_000'"),
        ('[{"train": ["case_000"], "val": ["case_001", "case_001"]}]', r"1 case\(s\) named twice: 'case_001'"),
        ('[{"train": "case_000", "val": ["case_001"]}]', "must be a list of folds"),
        ('[{"train": ["case_000", null], "val": ["case_001"]}]', "must be a list of folds"),
        ('[{"train": ["case_000", ""], "val": ["case_001"]}]', r"1 case\(s\) not in the data set .*: ''"),
    ],
)
def test_a_faulty_splits_file(tmp_path, content: str, message: str) -> None:
    (tmp_path / "splits_final.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        select_split(NAMES, 0, [tmp_path])


def test_cases_that_a_splits_file_leaves_out_are_named(tmp_path, caplog) -> None:
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": NAMES[2:], "val": NAMES[:1]}]))
    with caplog.at_level("WARNING"):
        assert select_split(NAMES, 0, [tmp_path]).val == ("case_000",)
    assert "leaves 1 case(s) of the data set out: 'case_001'" in caplog.text


def test_fold_all_needs_no_splits_file(tmp_path) -> None:
    (tmp_path / "splits_final.json").write_text('[{"train": ["case_000"], "val": ["case_000"]}]')
    assert select_split(NAMES, "all", [tmp_path]).train == tuple(NAMES)


def test_cases_of_one_group_stay_together():
    names = [f"seq{group}_{frame:03d}" for group in (1, 2, 10, 11, 12, 13) for frame in range(group)]
    splits = make_group_splits(names, "seq[0-9]+")
    groups = [{name.partition("_")[0] for name in split.val} for split in splits]
    assert sorted(len(group) for group in groups) == [1, 1, 1, 1, 2] and len(set.union(*groups)) == 6
    for split in splits:
        assert not {n.partition("_")[0] for n in split.val} & {n.partition("_")[0] for n in split.train}
        assert sorted(split.train + split.val) == sorted(names)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("[", r"data\.split_by=\[ is no regular expression"),
        ("case_", "finds nothing at the beginning of 'seq1_0'"),
        ("x*", "finds nothing at the beginning of"),
        ("seq", r"makes 1 group\(s\) of cases \('seq'\); 5 folds need at least as many"),
    ],
)
def test_groups_that_cannot_be_dealt_are_refused(expression, message):
    names = [f"seq{group}_{frame}" for group in range(1, 6) for frame in range(3)]
    with pytest.raises(ValueError, match=message):
        make_group_splits(names, expression)


def test_groups_and_a_file_of_splits_contradict_each_other(tmp_path):
    names = [f"seq{group}" for group in range(5)]
    (tmp_path / "splits_final.json").write_text(json.dumps([{"train": names[:4], "val": names[4:]}]))
    with pytest.raises(ValueError, match=r"data\.split_by=seq. deals the cases into folds, and so does .*Leave one"):
        select_split(names, 0, [tmp_path], "seq.")
    assert select_split(names, 0, [], "seq.").val != ()


@pytest.mark.data
def test_frames_of_a_real_video_stay_together(real_data, tmp_path):
    module = CustomDataModule(
        dataset_dir=real_data / "Dataset713_Larynx", prepared_dir=tmp_path, configuration="2d", split_by="seq[0-9]+"
    )
    module.open_raw()
    sequences = [{name.partition("_")[0] for name in names} for names in (module.val_ids, module.train_ids)]
    assert sequences[0] == {"seq1"} and "seq1" not in sequences[1] and len(sequences[1]) == 4
    assert len(module.val_ids) + len(module.train_ids) == len(module.raw.training_cases)
