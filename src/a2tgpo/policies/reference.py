"""The frozen reference model."""

import copy

from a2tgpo.policies.policy import Policy


def frozen_copy(policy: Policy) -> Policy:
    """A second copy of the policy as it is now, which never changes."""
    model = copy.deepcopy(policy.model).eval().requires_grad_(False)
    return Policy(model, policy.tokenizer)


def no_reference(policy: Policy) -> None:
    """No reference: no KL is measured and no second forward is paid."""
