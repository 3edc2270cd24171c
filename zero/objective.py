"""The mathematics of the policy gradient, and nothing else: pure functions of tensors.

Read together with the yaml files in conf/algo: an algorithm is one choice of advantage, weight, surrogate and KL, and of
an estimator if a critic gives each token its own advantage. The loss is always

    L = sum over (n, t) of  weight[n, t] * (surrogate[n, t] + beta * kl[n, t])

so that averaging is data: `weight` is computed once per optimizer step over all its responses, and a sum does not change
when it is split into micro-batches or over processes.

Axes: P prompts, G completions of a prompt, N = P x G responses, T tokens, K turns of an episode.

Sources
    [GRPO]    Shao et al. 2024, DeepSeekMath, arXiv 2402.03300
    [DrGRPO]  Liu et al. 2025, Understanding R1-Zero-Like Training, arXiv 2503.20783, and its published code
    [PPO]     Schulman et al. 2017, arXiv 1707.06347
    [KL]      Schulman 2020, Approximating KL Divergence (k1, k2, k3)
    [W92]     Williams 1992, Simple Statistical Gradient-Following Algorithms (REINFORCE)
    [RLOO]    Ahmadian et al. 2024, Back to Basics, arXiv 2402.14740
    [RPP]     Hu 2025, REINFORCE++, arXiv 2501.03262
    [DAPO]    Yu et al. 2025, arXiv 2503.14476
    [GSPO]    Zheng et al. 2025, Group Sequence Policy Optimization, arXiv 2507.18071
    [CISPO]   MiniMax 2025, MiniMax-M1, arXiv 2506.13585
    [DUAL]    Ye et al. 2020, Mastering Complex Control in MOBA Games, arXiv 1912.09729
    [TIS]     Yao et al. 2025, Your Efficient RL Framework Secretly Brings You Off-Policy RL Training; cap 2 in oat's code
    [RFT]     Yuan et al. 2023, arXiv 2308.01825; ReST: Gulcehre et al. 2023, arXiv 2308.08998
    [MaxRL]   Tajwar et al. 2026, Maximum Likelihood Reinforcement Learning, arXiv 2602.02710
    [GAE]     Schulman et al. 2015, High-Dimensional Continuous Control Using Generalized Advantage Estimation, 1506.02438
    [Vine]    Kazemnejad et al. 2024, VinePPO, arXiv 2410.01679

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


def raw_reward(rewards_PG: Tensor) -> Tensor:
    """REINFORCE without a baseline, A_i = R_i. [W92]"""
    return rewards_PG


def leave_one_out(rewards_PG: Tensor) -> Tensor:
    """RLOO's advantage, A_i = R_i - mean of the other siblings' rewards = G / (G - 1) x `group_mean`. [RLOO] eq. 7; G >= 2."""
    siblings = rewards_PG.shape[1]
    return group_mean(rewards_PG) * (siblings / (siblings - 1))


def group_over_mean(rewards_PG: Tensor, eps: float = 1e-8) -> Tensor:
    """MaxRL's advantage, A_i = (R_i - mean R) / (mean |R| + eps) over the siblings of one prompt: the gradient of the
    log-likelihood of success rather than of its probability, so that hard questions count as much as easy ones.
    [MaxRL] section 4; G >= 2. The paper has rewards of 0 and 1; |R| keeps the sign right for others.
    """
    return group_mean(rewards_PG) / (rewards_PG.abs().mean(dim=1, keepdim=True) + eps)


def batch_whitened(rewards_PG: Tensor, eps: float = 1e-8) -> Tensor:
    """REINFORCE++'s advantage, A = (R - mean) / (std + eps) over all responses of a step, not over siblings. [RPP] eq. 10.

    Sample standard deviation (n - 1). Public code whitens tokens, which counts a long response more often; here every
    response counts once. The paper's KL is in the reward; here it is in the loss (beta).
    """
    if (rewards_PG == rewards_PG[0, 0]).all():
        return torch.zeros_like(rewards_PG)
    return (rewards_PG - rewards_PG.mean()) / (rewards_PG.std(correction=1) + eps)


def above_threshold(rewards_PG: Tensor, above: float) -> Tensor:
    """Best-of-n filtering, A_i = 1 if R_i > above, else 0: with `log_likelihood`, supervised learning on one's own good
    answers. [RFT] section 3.2"""
    return (rewards_PG > above).to(rewards_PG.dtype)


def ones(rewards_PG: Tensor) -> Tensor:
    """A_i = 1 whatever the reward: with `log_likelihood` on reference solutions, supervised learning."""
    return torch.ones_like(rewards_PG)


# -------------------------------------- advantages of an episode's turns: rewards, whether taken [P, G, K] -> [P, G, K]


def turn_return(rewards_PGK: Tensor, taken_PGK: Tensor, gamma: float = 1.0) -> Tensor:
    """A_ik = sum over l >= k of gamma^(l - k) r_il: what an episode earns from turn k on, without a baseline. [W92]"""
    return_PGK = torch.zeros_like(rewards_PGK)
    next_PG = torch.zeros_like(rewards_PGK[:, :, 0])
    for k in reversed(range(rewards_PGK.shape[2])):
        return_PGK[:, :, k] = next_PG = rewards_PGK[:, :, k] + gamma * next_PG
    return return_PGK.masked_fill(~taken_PGK, 0.0)


def turn_group_mean(rewards_PGK: Tensor, taken_PGK: Tensor, gamma: float = 1.0) -> Tensor:
    """A_ik = R_ik - mean_j R_jk, with R of `turn_return`, over the siblings j that took turn k: `group_mean` for each turn, and
    equal to it for episodes of one turn. A turn that no sibling shares has advantage 0; G >= 2."""
    return_PGK = turn_return(rewards_PGK, taken_PGK, gamma)
    count_P1K = taken_PGK.sum(dim=1, keepdim=True)
    centred_PGK = return_PGK - return_PGK.sum(dim=1, keepdim=True) / count_P1K.clamp(min=1)
    highest_P1K = return_PGK.masked_fill(~taken_PGK, -torch.inf).amax(dim=1, keepdim=True)
    lowest_P1K = return_PGK.masked_fill(~taken_PGK, torch.inf).amin(dim=1, keepdim=True)
    return centred_PGK.masked_fill(~taken_PGK | (highest_P1K == lowest_P1K), 0.0)


def turn_leave_one_out(rewards_PGK: Tensor, taken_PGK: Tensor, gamma: float = 1.0) -> Tensor:
    """A_ik = R_ik - mean of R_jk over the other siblings that took turn k: `leave_one_out` for each turn; G >= 2."""
    count_P1K = taken_PGK.sum(dim=1, keepdim=True).to(rewards_PGK.dtype)
    return turn_group_mean(rewards_PGK, taken_PGK, gamma) * (count_P1K / (count_P1K - 1).clamp(min=1))


def _all_equal(rewards_PG: Tensor) -> Tensor:
    return (rewards_PG == rewards_PG[:, :1]).all(dim=1, keepdim=True)


# ------------------------------------- estimators: the advantage of each token, or of each step of several tokens: -> [N, T]


def generalized_advantage(
    reward_NT: Tensor, value_NT: Tensor, step_start_NT: Tensor, mask_NT: Tensor, gamma: float, lam: float
) -> Tensor:
    """A_s = sum over l >= 0 of (gamma lam)^l delta_{s+l}, with delta_s = r_s + gamma V_{s+1} - V_s. [GAE] eq. 16

    A response is a sequence of steps; step_start_NT (bool) marks the first token of each. value_NT is the value of the state
    before such a token, r_s the sum of the rewards of step s's tokens; after the last step the value is 0. Every token has
    its step's advantage. A step is one token for a learned critic; with steps of many tokens, gamma = 1 and lam = 0 this
    is A_s = r_s + V_{s+1} - V_s of [Vine] eq. 5.
    """
    advantage_NT = torch.zeros_like(reward_NT)
    reward_N, next_advantage_N, next_value_N = (torch.zeros_like(reward_NT[:, 0]) for _ in range(3))
    for t in reversed(range(reward_NT.shape[1])):
        start_N = step_start_NT[:, t]
        reward_N = reward_N + reward_NT[:, t]
        delta_N = reward_N + gamma * next_value_N - value_NT[:, t]
        next_advantage_N = torch.where(start_N, delta_N + gamma * lam * next_advantage_N, next_advantage_N)
        next_value_N = torch.where(start_N, value_NT[:, t], next_value_N)
        reward_N = reward_N.masked_fill(start_N, 0.0)
        advantage_NT[:, t] = next_advantage_N
    for t in range(1, reward_NT.shape[1]):  # copy the advantage of a step's first token to its other tokens
        advantage_NT[:, t] = torch.where(step_start_NT[:, t], advantage_NT[:, t], advantage_NT[:, t - 1])
    return advantage_NT * mask_NT


def whitened(advantage_NT: Tensor, mask_NT: Tensor, eps: float = 1e-8) -> Tensor:
    """Shifted and scaled to mean 0 and variance 1 (n - 1) over all response tokens of a step. [PPO] in practice."""
    count = mask_NT.sum().clamp(min=2)
    mean = (advantage_NT * mask_NT).sum() / count
    variance = ((advantage_NT - mean).square() * mask_NT).sum() / (count - 1)
    return (advantage_NT - mean) * (variance + eps).rsqrt() * mask_NT


def clipped_value_loss(value_NT: Tensor, old_value_NT: Tensor, return_NT: Tensor, clip: float | None) -> Tensor:
    """max((V - R)^2, (V_old + clip(V - V_old, -c, c) - R)^2) / 2 for each token; clip=None: no clipping. [N, T] -> [N, T].
    From the code of [PPO] and [DrGRPO]; the paper of [PPO] has the plain square, eq. 9."""
    loss_NT = (value_NT - return_NT).square()
    if clip is not None:
        clamped_NT = old_value_NT + (value_NT - old_value_NT).clamp(-clip, clip)
        loss_NT = torch.maximum(loss_NT, (clamped_NT - return_NT).square())
    return loss_NT / 2


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


def token_mean(mask_NT: Tensor) -> Tensor:
    """DAPO's averaging, w = mask / number of response tokens in the whole step: every token counts alike. [DAPO] eq. 8"""
    return mask_NT / mask_NT.sum().clamp(min=1)


# ------------------- surrogates: new, old log-probabilities, advantage, mask [N, T] -> loss and where it is clipped (bool) [N, T]
# The mask that counts clipped tokens also selects the branch of the loss, so the two cannot differ.


def clipped(
    logprob_NT: Tensor,
    old_NT: Tensor,
    advantage_NT: Tensor,
    mask_NT: Tensor,
    low: float,
    high: float,
    dual: float | None = None,
) -> tuple[Tensor, Tensor]:
    """PPO's clipped objective as a loss, max(-A r, -A clip(r, 1 - low, 1 + high)), r = exp(new - old). [PPO] eq. 7; high > low
    is DAPO's clip-higher, [DAPO] eq. 10. With `dual` > 1 it is never above -A x dual for A < 0: a bad token whose
    probability soared costs a bounded loss. [DUAL] eq. 4."""
    ratio_NT = (logprob_NT - old_NT).exp()
    loss_NT, clipped_NT = _pessimistic(ratio_NT, advantage_NT, low, high)
    if dual is None:
        return loss_NT, clipped_NT
    soared_NT = (advantage_NT < 0) & (ratio_NT > dual)
    return torch.where(soared_NT, -advantage_NT * dual, loss_NT), clipped_NT | soared_NT


def sequence_clipped(
    logprob_NT: Tensor, old_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """GSPO: the clipped objective on one ratio for a whole response, s = exp(mean over its tokens of new - old), the same
    loss at every token, so that with `response_mean` a response weighs 1 / N. [GSPO] eq. 5 to 7."""
    return _pessimistic(_sequence_ratio(logprob_NT - old_NT, mask_NT), advantage_NT, low, high)


def truncated_importance(
    logprob_NT: Tensor, old_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor, low: float, high: float
) -> tuple[Tensor, Tensor]:
    """CISPO: -sg(clip(r, 1 - low, 1 + high)) A log p. The clip limits a token's weight and takes no token's gradient away.
    [CISPO] eq. 4 and 5; the paper has no lower bound (low = 1)."""
    ratio_NT = (logprob_NT.detach() - old_NT).exp()
    clamped_NT = ratio_NT.clamp(1 - low, 1 + high)
    return -clamped_NT * advantage_NT * logprob_NT, clamped_NT != ratio_NT


def log_likelihood(logprob_NT: Tensor, old_NT: Tensor, advantage_NT: Tensor, mask_NT: Tensor) -> tuple[Tensor, Tensor]:
    """-A log p: REINFORCE, [W92], which ignores that the policy may have moved since the samples; with A = 1 supervised
    learning."""
    return -advantage_NT * logprob_NT, torch.zeros_like(mask_NT, dtype=torch.bool)


# ------------------------- the gap between sampler and learner: the learner's and the sampler's log-probabilities -> factor [N, T]
# The samples come from the sampler's distribution; these factors weigh the policy's loss, never the KL, without gradient.


def token_correction(old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor, cap: float) -> Tensor:
    """Truncated importance sampling, min(exp(old - sampler), cap) for each token. [TIS]"""
    return ((old_NT - sampler_NT).detach() * mask_NT).exp().clamp(max=cap)


def sequence_correction(old_NT: Tensor, sampler_NT: Tensor, mask_NT: Tensor, cap: float) -> Tensor:
    """The same with one factor for a response, the ratio of its whole probability: unbiased up to the cap. [TIS]"""
    gap_N1 = ((old_NT - sampler_NT).detach() * mask_NT).sum(dim=1, keepdim=True)
    return gap_N1.clamp(max=40.0).exp().clamp(max=cap).expand_as(old_NT)


def _pessimistic(ratio: Tensor, advantage_NT: Tensor, low: float, high: float) -> tuple[Tensor, Tensor]:
    """max(-A r, -A clip(r)), and where it is the clipped one: the ratio has left the trust region in the direction of A."""
    clamped = ratio.clamp(1 - low, 1 + high)
    clipped_NT = ((advantage_NT > 0) & (ratio > clamped)) | ((advantage_NT < 0) & (ratio < clamped))
    return torch.where(clipped_NT, -advantage_NT * clamped, -advantage_NT * ratio), clipped_NT


def _sequence_ratio(difference_NT: Tensor, mask_NT: Tensor) -> Tensor:
    """exp of the mean over a response's tokens, [N, 1]."""
    length_N1 = mask_NT.sum(dim=1, keepdim=True).clamp(min=1)
    return ((difference_NT * mask_NT).sum(dim=1, keepdim=True) / length_N1).exp()


# ------------------------------------------------- KL(policy || reference) per token, from samples of the policy: [N, T] -> [N, T]
# d = reference - policy log-probability, clamped to +-40 as in the code of [DrGRPO] so that exp(d) stays finite.


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


def logprob_and_entropy(
    logits: Tensor, ids: Tensor, temperature: float, entropy_gradient: bool = False
) -> tuple[Tensor, Tensor]:
    """Log-probability of `ids` and entropy of the whole distribution, both in nats, at a sampling temperature.

    logits [..., V], ids [...] -> [...], [...]. Computed in float32. The entropy carries a gradient only if asked to.
    """
    logits = logits.float()
    if temperature != 1:  # saves a pass over the largest tensor, and one more in the backward pass
        logits = logits / temperature
    logp = torch.log_softmax(logits, dim=-1)
    with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):
        entropy = -(logp.exp() * logp.clamp(min=torch.finfo(logp.dtype).min)).sum(dim=-1)
    return logp.gather(-1, ids[..., None])[..., 0], entropy
