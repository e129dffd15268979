import inspect

from model_contract.errors import DimflowError
from serving import errors


def test_the_tree_on_top_names_every_class_and_all_derive_from_the_projects_base() -> None:
    classes = {
        name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, DimflowError)
    } - {"DimflowError"}

    assert all(f" {name} " in (errors.__doc__ or "") or f" {name}\n" in (errors.__doc__ or "") for name in classes)
    assert classes | {"RefusalReason"} == set(errors.__all__)


def test_a_refusal_shows_reason_and_detail() -> None:
    refused = errors.IncrementRefused(errors.RefusalReason.GAP, "sequence 7: expected 5")

    assert str(refused) == "gap: sequence 7: expected 5"
    assert (refused.reason, refused.detail) == ("gap", "sequence 7: expected 5")
