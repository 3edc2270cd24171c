"""The mathematics of the policy gradient, and nothing else: pure functions of tensors.

Read together with the yaml files in conf/algo: an algorithm is one choice of advantage, weight, surrogate and KL. The
loss is always

    L = sum over (n, t) of  weight[n, t] * (surrogate[n, t] + beta * kl[n, t])

so that averaging is data: `weight` is made once per optimizer step over all its responses, and a sum does not change
when it is cut into micro-batches or spread over processes.

Axes: P prompts, G completions of a prompt, N = P x G responses, T tokens.

Sources
    [GRPO]    Shao et al. 2024, DeepSeekMath, arXiv 2402.03300
    [DrGRPO]  Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv 2503.20783, and its published code
    [PPO]     Schulman et al. 2017, arXiv 1707.06347
    [KL]      Schulman 2020, Approximating KL Divergence (k1, k2, k3)

Departures, in words: a group whose rewards are all equal has exactly zero advantage here (in floating point the mean of
equal numbers need not equal them, and dividing the residue by a standard deviation of 1e-8 would turn it into noise).
"""

from __future__ import annotations

import torch
from torch import Tensor

# ---------------------------------------------------------------------------------------------- advantages: [P, G] -> [P, G]


def group_mean(rewards_PG: Tensor) -> Tensor:
    """Dr. GRPO's advantage, A_i = R_i - mean_j R_j over the siblings of one prompt. [DrGRPO] eq. 3; G >= 2."""
    centred_PG = rewards_PG - rewards_PG.mean(dim=1, keepdim=True)
    return centred_PG.masked_fill(_all_equal(rewards_PG), 0.0)


def group_zscore(rewards_PG: Tensor, eps: float = 1e-8) -> Tensor:
    """GRPO's advantage, A_i = (R_i - mean R) / (std R + eps) over the siblings of one prompt. [GRPO] section 4.1.2; G >= 2.

    The standard deviation is the sample's (n - 1) with eps = 1e-8, as in the code of [DrGRPO]; other code bases use the
    population's or eps up to 1e-4, which moves the advantage by up to 7 % at G = 8.
    """
    return group_mean(rewards_PG) / (rewards_PG.std(dim=1, correction=1, keepdim=True) + eps)


def _all_equal(rewards_PG: Tensor) -> Tensor:
    return (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)


# ------------------------------------------------------------------------------------------------- weights: [N, T] -> [N, T]


def response_mean(mask_NT: Tensor) -> Tensor:
    """GRPO's averaging, w = mask / (N |o_i|): the mean over a response's tokens, then over responses. [GRPO] eq. 3.

    The 1/|o_i| is the length bias of [DrGRPO]: a long wrong answer is punished less per token than a short one.
    """
    length_N1 = mask_NT.sum(dim=1, keepdim=True).clamp(min=1)
    return mask_NT / (length_N1 * mask_NT.shape[0])


def constant_length(mask_NT: Tensor, length: int) -> Tensor:
    """Dr. GRPO's averaging, w = mask / (N L) with L = `length` tokens, the generation budget. [DrGRPO] appendix A, listing 1.

    L only rescales the gradient, which Adam absorbs; but clip thresholds on the gradient norm do not transfer from GRPO.
    """
    return mask_NT / (mask_NT.shape[0] * length)


# ------------------------------------------------------------------ surrogates: new, old log-probabilities, advantage -> loss


def clipped(logprob_NT: Tensor, old_NT: Tensor, advantage_N1: Tensor, low: float, high: float) -> Tensor:
    """PPO's clipped objective as a loss, max(-A r, -A clip(r, 1 - low, 1 + high)), r = exp(new - old). [PPO] eq. 7.

    Shapes [N, T], [N, T], [N, 1] -> [N, T].
    """
    ratio_NT = (logprob_NT - old_NT).exp()
    return torch.maximum(-advantage_N1 * ratio_NT, -advantage_N1 * ratio_NT.clamp(1 - low, 1 + high))


def clip_binds(logprob_NT: Tensor, old_NT: Tensor, advantage_N1: Tensor, low: float, high: float) -> Tensor:
    """Where `clipped` has no gradient: the ratio has left the trust region in the direction the advantage asks for. Bool [N, T]."""
    ratio_NT = (logprob_NT - old_NT).exp()
    return ((advantage_N1 > 0) & (ratio_NT > 1 + high)) | ((advantage_N1 < 0) & (ratio_NT < 1 - low))


# ------------------------------------------------- KL(policy || reference) per token, from samples of the policy: [N, T] -> [N, T]
# d = reference - policy log-probability, held within +-40 as in the code of [DrGRPO] so that exp(d) stays finite.


def k1(logprob_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """-d: unbiased, may be negative, and as a loss its expected gradient is zero. [KL]"""
    return -_log_ratio(logprob_NT, reference_NT)


def k2(logprob_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """d^2 / 2: biased, low variance; as a loss its gradient is that of the KL. [KL]"""
    return _log_ratio(logprob_NT, reference_NT).square() / 2


def k3(logprob_NT: Tensor, reference_NT: Tensor) -> Tensor:
    """exp(d) - 1 - d: unbiased and never negative; GRPO's choice. [KL], [GRPO] eq. 4"""
    d_NT = _log_ratio(logprob_NT, reference_NT)
    return d_NT.expm1() - d_NT


def _log_ratio(logprob_NT: Tensor, reference_NT: Tensor) -> Tensor:
    return (reference_NT - logprob_NT).clamp(-40.0, 40.0)


# --------------------------------------------------------------------------------------------------------- log-probabilities


def logprob_and_entropy(logits: Tensor, ids: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Log-probability of `ids` and entropy of the whole distribution, both in nats, at a sampling temperature.

    logits [..., V], ids [...] -> [...], [...]. Computed in float32. The entropy carries no gradient.
    """
    logp = torch.log_softmax(logits.float() / temperature, dim=-1)
    with torch.no_grad():
        entropy = -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(dim=-1)
    return logp.gather(-1, ids[..., None])[..., 0], entropy
