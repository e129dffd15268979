"""What is special about admitting always; the laws are in test_admission."""

import numpy as np
import pytest

from feature_admission.always_admit import AlwaysAdmit
from feature_admission.errors import StateMismatchError
from feature_admission.state_pages import whole_array


def test_holds_nothing_and_refuses_the_state_of_others() -> None:
    policy = AlwaysAdmit()
    assert policy.memory_bytes == 0
    assert policy.state() == {}
    with pytest.raises(StateMismatchError, match="cells"):
        policy.restore({"cells": np.zeros(1)})
    with pytest.raises(StateMismatchError, match="cells"):
        policy.apply_pages([whole_array("cells", np.zeros(1))])
