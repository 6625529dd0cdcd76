"""Planted faults: each must turn the tests named beside it red.

``python tests/tools/mutants.py [NAME...]`` (or ``make mutants``) plants them one by one in a copy of the
package and prints what found them; it fails if any goes unnoticed. The suite does the same.
"""

import contextlib
import io
import os
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]


class Mutant(NamedTuple):
    """In ``file``, ``right`` becomes ``wrong``, and a test in ``found_by`` must fail."""

    file: str
    right: str
    wrong: str
    found_by: str


GUIDANCE = "samplers/test_samplers.py"
CLIPPING = "samplers/test_samplers.py::test_clipping_keeps_x_inside_and_the_estimate_on_the_path"
DDIM_STEP = "maths/test_against_diffusers.py::test_ddim_is_ddim"
MULTISTEP = "maths/test_against_diffusers.py::test_multistep_samplers_are_theirs"
STAGE_1 = "interop/test_pretrained.py::test_stage_1_is_theirs"
INPAINTING = "edit/test_editing.py::test_inpainting_keeps_known_pixels_exactly"
TIMES = "maths/test_times.py"
WEIGHTINGS = "maths/test_weightings.py"
EDM = "maths/test_predictions.py"
COUPLINGS = "maths/test_couplings.py"
METHODS = "maths/test_guidance.py"
INVERSE = "maths/test_inverse.py"
AVERAGES = "train/test_power_ema.py"
DIT = "models/test_models.py"
HYBRIDS = "edit/test_editing.py::test_a_hybrids_bands_are_each_ones"
ORDERS = "maths/test_oracle.py::test_each_samplers_order_where_the_path_is_smooth"
ANAGRAMS = "edit/test_editing.py::test_anagrams_are_read_both_ways"
BITS = "evaluate/test_likelihood.py::test_bits_per_dim_of_gaussian_data"
CONDITIONS = "train/test_conditions.py"
AUGMENT = "data/test_augment.py"
NOISING = "maths/test_against_diffusers.py::test_noising_is_add_noise"

# Means the same: were this "found", the tests would fail for another reason than the faults.
HARMLESS = Mutant("samplers/ddim.py", "x_s = alpha_s * x + (", "x_s = x * alpha_s + (", ORDERS)

MUTANTS = {
    "ddim: sign of eps": Mutant("samplers/ddim.py", "x_s = alpha_s * x + (", "x_s = alpha_s * x - (", ORDERS),
    "ddim: alpha_t for alpha_s": Mutant(
        "samplers/ddim.py", "x_s = alpha_s * x", "x_s = alpha_t * x", "maths/test_oracle.py"
    ),
    "ddim: too much fresh noise": Mutant(
        "samplers/ddim.py", "tau = self.eta * sigma_s / sigma_t", "tau = self.eta * sigma_s", DDIM_STEP
    ),
    "ancestral: sigma_t for sigma_s in the mean": Mutant(
        "samplers/ancestral.py",
        "(alpha_ts * sigma_s**2 * x_t",
        "(alpha_ts * sigma_t**2 * x_t",
        "maths/test_oracle.py",
    ),
    "ancestral: alpha_t for alpha_s": Mutant(
        "samplers/ancestral.py", "alpha_s * beta_ts * x)", "alpha_t * beta_ts * x)", "maths/test_oracle.py"
    ),
    "ancestral: variance for standard deviation": Mutant(
        "samplers/ancestral.py", "variance.sqrt() * noise()", "variance * noise()", "maths/test_oracle.py"
    ),
    "loop: the estimate of the wrong time": Mutant(
        "samplers/base.py", "denoiser(x_t, t.expand", "denoiser(x_t, s.expand", "maths/test_oracle.py"
    ),
    "eps: sign": Mutant(
        "predictions.py",
        "(x_t - sigma * output) / alpha",
        "(x_t + sigma * output) / alpha",
        "maths/test_oracle.py",
    ),
    "v: sign": Mutant(
        "predictions.py",
        "(alpha * x_t - sigma * output)",
        "(alpha * x_t + sigma * output)",
        "maths/test_oracle.py",
    ),
    "schedule: the network's index off by one": Mutant(
        "schedules/discrete.py",
        "(t * self.steps).round() - 1",
        "(t * self.steps).round()",
        "maths/test_oracle.py",
    ),
    "schedule: the table's index off by one": Mutant(
        "schedules/discrete.py",
        "[(t * self.steps).round().long()]",
        "[(t * self.steps - 1).round().long().clamp(min=0)]",
        NOISING,
    ),
    "cosine: no offset": Mutant(
        "schedules/discrete.py", "(t + s) / (1 + s) * math.pi", "t * math.pi", NOISING
    ),
    "heun: the second evaluation at the wrong time": Mutant(
        "samplers/heun.py", "denoiser(x_s, s.expand", "denoiser(x_s, t.expand", "maths/test_oracle.py"
    ),
    "heun: the first estimate twice": Mutant(
        "samplers/heun.py", "d_sigma * (eps + eps_end) / 2", "d_sigma * eps", "maths/test_oracle.py"
    ),
    "velocity: sign": Mutant("predictions.py", "return eps - x", "return x - eps", "maths/test_oracle.py"),
    "flow: the network told another time": Mutant(
        "schedules/continuous.py", "return 1000 * t", "return 1000 * (1 - t)", "maths/test_schedules.py"
    ),
    "times: logit-normal without its mean": Mutant(
        "times.py",
        "return self.mean + self.std * drawn",
        "return self.std * drawn",
        "maths/test_times.py",
    ),
    "fc_unet: time scales and label shifts": Mutant(
        "models/fc_unet.py",
        "self.label(c)[:, :, None, None] * h + t",
        "self.label(c)[:, :, None, None] + h * t",
        "models/test_models.py",
    ),
    "guidance: the interval inside out": Mutant(
        "guidance/base.py", "(t >= low) & (t <= high)", "(t < low) | (t > high)", GUIDANCE
    ),
    "guidance: rescaled the wrong way": Mutant(
        "guidance/base.py",
        "rescale * ratio + 1 - rescale",
        "rescale / ratio + 1 - rescale",
        GUIDANCE,
    ),
    "guidance: the 1 + w convention": Mutant(
        "guidance/base.py", "w + self.guidance.scale * (b - w)", "b + self.guidance.scale * (b - w)", GUIDANCE
    ),
    "ve: sigma without its power": Mutant(
        "schedules/continuous.py",
        "self.sigma_max * t**self.rho",
        "self.sigma_max * t",
        "maths/test_schedules.py",
    ),
    "ve: log-SNR taken for log sigma": Mutant(
        "schedules/continuous.py", "(-log_snr / 2).exp()", "(-log_snr).exp()", "maths/test_schedules.py"
    ),
    "ve: the last step at the least noise left out": Mutant(
        "schedules/continuous.py",
        "torch.linspace(self.t_max, self.t_min, steps, dtype=torch.float64)",
        "torch.linspace(self.t_max, 0, steps + 1, dtype=torch.float64)[:-1]",
        "maths/test_schedules.py",
    ),
    "ve: times below the least noise drawn": Mutant(
        "schedules/continuous.py",
        "self.t_min + (self.t_max - self.t_min) * share",
        "share",
        "maths/test_schedules.py",
    ),
    "ve: c_noise without its quarter": Mutant(
        "schedules/continuous.py", "self.sigma(t).log() / 4", "self.sigma(t).log()", "maths/test_schedules.py"
    ),
    "chain: shares of an entry too few": Mutant(
        "schedules/discrete.py", "(share * self.steps).floor() + 1)", "(share * self.steps).floor())", TIMES
    ),
    "edm: what the network is shown isn't scaled": Mutant(
        "predictions.py", "return x_t / self._std(alpha, sigma)", "return x_t", EDM
    ),
    "edm: c_skip without its square": Mutant(
        "predictions.py",
        "alpha * self.sigma_data**2 / std**2 * x_t",
        "alpha * self.sigma_data / std * x_t",
        EDM,
    ),
    "edm: c_out's sign": Mutant(
        "predictions.py",
        "* x_t + sigma * self.sigma_data / std * output",
        "* x_t - sigma * self.sigma_data / std * output",
        EDM,
    ),
    "edm: the deviation of images forgotten": Mutant(
        "predictions.py", "(alpha * self.sigma_data) ** 2).sqrt()", "alpha**2).sqrt()", EDM
    ),
    "edm: the slope upside down": Mutant(
        "predictions.py",
        "return self._std(alpha, sigma) / (sigma * self.sigma_data)",
        "return sigma * self.sigma_data / self._std(alpha, sigma)",
        EDM,
    ),
    "rescheduled: not scaled": Mutant(
        "combinators.py",
        "self.denoiser(size_old / size * x_t, t_old, y)",
        "self.denoiser(x_t, t_old, y)",
        "maths/test_oracle.py",
    ),
    "rescheduled: at the new path's time": Mutant(
        "combinators.py",
        "self.denoiser(size_old / size * x_t, t_old, y)",
        "self.denoiser(size_old / size * x_t, t, y)",
        "maths/test_oracle.py",
    ),
    "times: log-normal in log-SNR": Mutant("times.py", "-2 * log_noise", "-log_noise", TIMES),
    "times: importance without its weights": Mutant(
        "times.py", "1 / (self.bins * p[chosen])", "torch.ones_like(share)", TIMES
    ),
    "times: importance by the mean square": Mutant(
        "times.py", "roots = self.squares.sqrt()", "roots = self.squares", TIMES
    ),
    "times: importance forgets": Mutant(
        "times.py",
        "kept * self.squares + (1 - kept) * mean",
        "(1 - kept) * self.squares + kept * mean",
        TIMES,
    ),
    "weighting: soft min-SNR is min-SNR": Mutant(
        "weightings.py", "snr * self.gamma / (snr + self.gamma)", "snr.clamp(max=self.gamma)", WEIGHTINGS
    ),
    "weighting: p2 as a weight of x": Mutant(
        "weightings.py", "snr / (self.k + snr) ** self.gamma", "1 / (self.k + snr) ** self.gamma", WEIGHTINGS
    ),
    "weighting: the sigmoid's sign": Mutant(
        "weightings.py",
        "torch.sigmoid(self.bias - log_snr)",
        "torch.sigmoid(self.bias + log_snr)",
        WEIGHTINGS,
    ),
    "weighting: edm's deviation not squared": Mutant(
        "weightings.py",
        "log_snr.exp() + 1 / self.sigma_data**2",
        "log_snr.exp() + 1 / self.sigma_data",
        WEIGHTINGS,
    ),
    "weighting: the uncertainty isn't paid for": Mutant(
        "weightings.py", "/ u.exp() + u", "/ u.exp()", WEIGHTINGS
    ),
    "weighting: the uncertainty in half precision": Mutant(
        "weightings.py", "log_snr.device.type, enabled=False", "log_snr.device.type, enabled=True", WEIGHTINGS
    ),
    "weighting: importance of the uncertainty": Mutant(
        "train/module.py",
        "loss.detach() - self.weighting.offset(self.denoiser.schedule.log_snr(t)).detach()",
        "loss.detach()",
        "train/test_module.py::test_importance_learns_from_errors_and_not_from_the_learned_weighting_itself",
    ),
    "weighting: of the velocity, uncapped": Mutant(
        "weightings.py", "weight.clamp(max=self.most)", "weight", WEIGHTINGS
    ),
    "dit: keys not turned": Mutant(
        "models/dit.py", "rotated(self.k_norm(k), rotation)", "self.k_norm(k)", "models/test_models.py"
    ),
    "dit: told no places": Mutant("models/dit.py", " + self.positions.to(h)", "", DIT),
    "dit: rows for columns": Mutant(
        "models/dit.py", "for place in (row, column)", "for place in (row, row)", DIT
    ),
    "dit: turned by no angle": Mutant(
        "models/dit.py", "first * sin + second * cos], dim=-1)", "second * sin + first * cos], dim=-1)", DIT
    ),
    "dit: scaled by nothing at first": Mutant("models/dit.py", "* (1 + scale) +", "* scale +", DIT),
    "dit: queries not normalised": Mutant(
        "models/dit.py", "rotated(self.q_norm(q), rotation)", "rotated(q, rotation)", DIT
    ),
    "uvit: skips in the order they were made": Mutant("models/dit.py", "reversed(made[", "iter(made[", DIT),
    "coupling: the dearest pairs": Mutant("couplings.py", "maximize=True", "maximize=False", COUPLINGS),
    "coupling: noise of any label": Mutant(
        "couplings.py", "mine[cheapest(x[mine], eps[mine])]", "cheapest(x, eps)[mine]", COUPLINGS
    ),
    "coupling: a resumed run searches again": Mutant(
        "couplings.py",
        "if not self.potentials.any():",
        "if True:",
        "train/test_train.py::test_a_resumed_run_does_not_search_for_its_coupling_again",
    ),
    "coupling: potentials that move away": Mutant(
        "couplings.py", "(1 - n * counts / self.batch_size)", "(n * counts / self.batch_size - 1)", COUPLINGS
    ),
    "coupling: potentials of the last step": Mutant(
        "couplings.py", "potentials = total / self.iterations", "pass", COUPLINGS
    ),
    "coupling: left out of training": Mutant(
        "train/module.py", "x, other, eps = self.coupling(x, other, eps)", "pass", "train/test_module.py"
    ),
    "guidance: times on another device": Mutant(
        "common/tensors.py", "values.to(like.device).reshape", "values.reshape", METHODS
    ),
    "apg: one memory for two conditions": Mutant(
        "denoiser.py", "super().__init__(copy(denoiser))", "super().__init__(denoiser)", METHODS
    ),
    "apg: along the image too": Mutant(
        "guidance/apg.py", "difference - (1 - self.guidance.parallel) * parallel", "difference", METHODS
    ),
    "apg: momentum of the other sign": Mutant(
        "guidance/apg.py",
        "difference + self.guidance.momentum",
        "difference - self.guidance.momentum",
        METHODS,
    ),
    "apg: a walk begins with the last one's momentum": Mutant(
        "guidance/apg.py", "or t.max() > self._now[0].max()", "", METHODS
    ),
    "apg: lengths stretched to the cap": Mutant(
        "guidance/apg.py", "norm.clamp(min=1e-12)).clamp(max=1)", "norm.clamp(min=1e-12))", METHODS
    ),
    "apg: its momentum taken for a flow": Mutant("denoiser.py", "if self.remembers:", "if False:", METHODS),
    "cfg-zero: the other way round": Mutant(
        "guidance/cfg_zero.py",
        "dot(uncond, uncond).clamp",
        "dot(cond, cond).clamp",
        METHODS,
    ),
    "cfg-zero: still at the end": Mutant(
        "guidance/cfg_zero.py", "t > 1 - self.guidance.still", "t < self.guidance.still", METHODS
    ),
    "cfg++: the conditional noise": Mutant(
        "guidance/cfg_pp.py", "Estimate(x, worse.eps", "Estimate(x, better.eps", METHODS
    ),
    "autoguidance: towards the worse model": Mutant(
        "guidance/autoguidance.py",
        "return self.denoiser(x_t, t, y), self.worse(x_t, t, y)",
        "return self.worse(x_t, t, y), self.denoiser(x_t, t, y)",
        METHODS,
    ),
    "sde: noise added to the estimated one": Mutant(
        "samplers/sde.py", "rho * eps + (1 - rho**2).sqrt()", "eps + (1 - rho**2).sqrt()", INVERSE
    ),
    "sde: fresh noise at the other end": Mutant(
        "samplers/sde.py", '"clean": 1 - noisy', '"clean": noisy', INVERSE
    ),
    "sde: the rate of log-SNR": Mutant(
        "samplers/sde.py",
        "(schedule.log_snr(s) - schedule.log_snr(t)) / 2",
        "(schedule.log_snr(s) - schedule.log_snr(t))",
        INVERSE,
    ),
    "inversion: down instead of up": Mutant(
        "samplers/inversion.py", "in pairwise(up):", "in pairwise(up.flip(0)):", INVERSE
    ),
    "inversion: the first estimate twice": Mutant(
        "samplers/heun.py", "d_sigma * (eps + eps_end) / 2", "d_sigma * eps", INVERSE
    ),
    "restored: Tweedie without alpha": Mutant(
        "combinators.py", "sigma**2 / alpha * gradient", "sigma**2 * gradient", INVERSE
    ),
    "restored: noise not squared": Mutant("combinators.py", "self.noise**2 * v", "self.noise * v", INVERSE),
    "restored: what is known added": Mutant(
        "combinators.py", "self.observed.to(seen) - seen.detach()", "self.observed.to(seen)", INVERSE
    ),
    "conjugate gradients: over the whole batch": Mutant(
        "common/tensors.py", "per_image((a * b).flatten(1).sum(1), a)", "(a * b).sum()", INVERSE
    ),
    "averages: of another length": Mutant("averages.py", "12 - length**-2", "12 + length**-2", AVERAGES),
    "averages: the share that stays": Mutant(
        "averages.py", "(1 - 1 / step) ** (gamma + 1)", "(1 - 1 / step) ** gamma", AVERAGES
    ),
    "averages: weights that shrink": Mutant("averages.py", "shares /= shares.sum()", "pass", AVERAGES),
    "averages: profiles of the wrong side": Mutant(
        "averages.py", "np.where(t < u, h, -g)", "np.where(t < u, g, -h)", AVERAGES
    ),
    "velocity's weighting: not squared": Mutant(
        "weightings.py", "((log_snr / 2).exp() + 1) ** 2", "(log_snr / 2).exp() + 1", WEIGHTINGS
    ),
    "clipping: eps of before": Mutant(
        "denoiser.py",
        "Estimate(x, (x_t - alpha * x) / sigma, var_weight)",
        "Estimate(x, self.denoiser(x_t, t, None).eps, var_weight)",
        CLIPPING,
    ),
    "thresholding: not scaled back": Mutant(
        "denoiser.py", "x.clamp(-limit, limit) / limit", "x.clamp(-limit, limit)", STAGE_1
    ),
    "learnt variance: small and large exchanged": Mutant(
        "samplers/ancestral.py",
        "small ** (1 - share) * beta_ts**share",
        "beta_ts ** (1 - share) * small**share",
        STAGE_1,
    ),
    "path: the noise between two times": Mutant(
        "schedules/base.py", "a**2 * self.sigma(s) ** 2", "a * self.sigma(s) ** 2", "maths/test_oracle.py"
    ),
    "dpmpp: extrapolated backwards": Mutant(
        "samplers/dpmpp.py", "now.estimate.x + (", "now.estimate.x - (", MULTISTEP
    ),
    "unipc: the predictor's slope counted twice": Mutant(
        "samplers/unipc.py", "(a - 0.5) * slope", "a * slope", MULTISTEP
    ),
    "grids: rho forgotten on the way back": Mutant(
        "samplers/grids.py", "-2 * rho * roots.log()", "-2 * roots.log()", "maths/test_schedules.py"
    ),
    "inpainting: the mask inside out": Mutant(
        "samplers/hooks.py", "torch.where(self.mask.to", "torch.where(~self.mask.to", INPAINTING
    ),
    "anagram: not looked back at": Mutant(
        "combinators.py", "(u + self.view.inverse(v)) / 2", "(u + self.view.forward(v)) / 2", ANAGRAMS
    ),
    "hybrid: bands exchanged": Mutant(
        "combinators.py", "b + self.blur(a - b)", "a + self.blur(b - a)", HYBRIDS
    ),
    "upscaler: noised by the table of its steps": Mutant(
        "interop/pretrained.py",
        "PipelineSchedule(pipeline.image_noising_scheduler)",
        "PipelineSchedule(pipeline.scheduler)",
        "interop/test_pretrained.py::test_stage_2_is_theirs",
    ),
    "average: decay the wrong way round": Mutant(
        "train/callbacks/ema.py",
        "weights, 1 - decay)",
        "weights, decay)",
        "train/test_callbacks.py::test_ema_is_the_formula_with_its_warm_up",
    ),
    "data: the same order every epoch": Mutant(
        "data/order.py", '"order", epoch)', '"order")', "data/test_data.py"
    ),
    "min-SNR: weight not squared": Mutant(
        "weightings.py",
        "/ dx_weight**2",
        "/ dx_weight",
        "train/test_module.py::test_min_snr_weights_are_the_papers",
    ),
    "labels in equal shares": Mutant(
        "evaluate/label_shares.py",
        "return ordered[(spread * len(ordered)).long()]",
        "return torch.arange(n) % (int(train_labels.max()) + 1)",
        "evaluate/test_evaluator.py::test_labels_have_the_shares_of_the_training_split",
    ),
    "floor: of training images": Mutant(
        "evaluate/evaluator.py",
        "self._features(network, train=True), self._features(network, train=False)",
        "self._features(network, train=True), self._features(network, train=True)",
        "evaluate/test_evaluator.py::test_the_floor_is_the_score_of_real_test_images",
    ),
    "coverage: an image is its own neighbour": Mutant(
        "evaluate/distances.py",
        "kthvalue(k + 1,",
        "kthvalue(k,",
        "evaluate/test_distances.py::test_manifolds_are_those_of_prdc",
    ),
    "likelihood: the trace's sign": Mutant(
        "evaluate/likelihood.py", "return prior + change", "return prior - change", BITS
    ),
    "likelihood: the density of z, not of x_t": Mutant(
        "evaluate/likelihood.py", " - dimensions * sigma[0].log()", "", BITS
    ),
    "likelihood: Euler's steps": Mutant(
        "evaluate/likelihood.py", "z = z + step * (x_hat + x_end) / 2", "z = z + step * x_hat", BITS
    ),
    "likelihood: the Jacobian's sum for its trace": Mutant(
        "evaluate/likelihood.py",
        "signs = noise().sign()",
        "signs = noise().sign().abs()",
        "evaluate/test_likelihood.py::test_bits_per_dim_of_pixels_that_belong_together",
    ),
    "likelihood: labels forgotten": Mutant(
        "evaluate/likelihood.py",
        "labels = None if y is None else y[indices].to(device)",
        "labels = None",
        "evaluate/test_likelihood.py::test_bits_per_dim_ask_for_the_images_own_label",
    ),
    "validation: the same noise in every batch": Mutant(
        "train/module.py",
        "self._validated + self.global_rank",
        "self.global_rank",
        "train/test_module.py::test_validation_draws_are_other_ones_in_every_batch",
    ),
    "labels: those that were to be kept are dropped": Mutant(
        "train/module.py",
        "uniform < self.label_dropout",
        "uniform > self.label_dropout",
        "train/test_module.py::test_dropout_of_labels_is_the_share_asked_for",
    ),
    "best: the highest loss": Mutant(
        "train/callbacks/checkpointing.py",
        'filename="best", monitor=monitor,',
        'filename="best", monitor=monitor, mode="max",',
        "train/test_callbacks.py::test_the_best_checkpoint_is_of_the_lowest_validation_loss",
    ),
    "samples: the seeds not heeded": Mutant(
        "train/callbacks/samples.py",
        "(draw(seed) for seed in others)",
        "(draw(first) for seed in others)",
        "train/test_callbacks.py::test_a_grid_stacks_its_seeds",
    ),
    "samples: the guidance not heeded": Mutant(
        "train/callbacks/samples.py",
        "denoiser = self.guidance.applied(pl_module.denoiser)",
        "denoiser = Guidance(2.0).applied(pl_module.denoiser)",
        "train/test_callbacks.py::test_grids_and_scores_are_guided_alike",
    ),
    "evaluation: the guidance not heeded": Mutant(
        "evaluate/callback.py",
        "denoiser = self.guidance.applied(pl_module.denoiser)",
        "denoiser = Guidance(2.0).applied(pl_module.denoiser)",
        "train/test_callbacks.py::test_grids_and_scores_are_guided_alike",
    ),
    "callbacks: the list of epochs not heeded": Mutant(
        "train/callbacks/after_epochs.py",
        "return epoch in self.epochs",
        "return True",
        "train/test_callbacks.py::test_pictures_come_after_the_epochs_asked_for_and_at_the_end",
    ),
    "validation: of the raw weights": Mutant(
        "train/callbacks/ema.py",
        "LightningModule) -> None:\n        self._swap(pl_module, True)",
        "LightningModule) -> None:\n        self._swap(pl_module, False)",
        "train/test_callbacks.py::test_ema_is_used_in_validation_and_left_by_an_exception",
    ),
    "loading: the checkpoint's guidance not heeded": Mutant(
        "loading.py",
        'own=run_config.get("guidance")',
        "own=None",
        "sample/test_sample.py::test_guidance_is_that_of_the_runs_own_samples",
    ),
    "copies: farther than most, not nearer": Mutant(
        "evaluate/evaluator.py",
        "copied = distances < self",
        "copied = distances > self",
        "evaluate/test_evaluator.py::test_memorised_digits_are_nearer_than_new_ones",
    ),
    "muon: no look ahead": Mutant(
        "train/muon.py",
        "torch._foreach_lerp(grads, momenta, momentum)",
        "momenta",
        "train/test_muon.py::test_matrices_take_the_steps_of_torchs_muon",
    ),
    "muon: scaled by the smaller side": Mutant(
        "train/muon.py",
        "math.sqrt(max(",
        "math.sqrt(min(",
        "train/test_muon.py::test_updates_have_the_size_of_adamws",
    ),
    "attention in bfloat16: not scaled": Mutant(
        "models/blocks.py",
        "q * q.shape[-1] ** -0.5 @ k.mT",
        "q @ k.mT",
        "train/test_hardware.py::test_attention_in_bfloat16_is_the_fused_kernels",
    ),
    "resuming: in another precision": Mutant(
        "train/hardware.py",
        'return start["hyper_parameters"]["trainer"]["precision"], "the',
        'return fastest_precision(training_device(cfg))[0], "the',
        "train/test_hardware.py::test_auto_is_said_kept_in_the_checkpoint_and_by_those_who_go_on",
    ),
    "study: differences the wrong way round": Mutant(
        "study/comparison.py",
        "[a - b for a, b",
        "[b - a for a, b",
        "study/test_study.py::test_differences_are_paired",
    ),
    "condition: one pixel of a block for its mean": Mutant(
        "conditions.py", "F.avg_pool2d(x, self.factor)", "x[..., :: self.factor, :: self.factor]", CONDITIONS
    ),
    "condition: none is white": Mutant(
        "denoiser.py", "torch.zeros_like(y) if self", "torch.ones_like(y) if self", CONDITIONS
    ),
    "condition: dropped for those that were to be kept": Mutant(
        "train/module.py",
        "per_image(uniform < self.label_dropout, y)",
        "per_image(uniform >= self.label_dropout, y)",
        "train/test_conditions.py::test_a_share_of_the_conditions_is_dropped",
    ),
    "augment: a turn about other axes than a pixel's": Mutant(
        "data/augment.py", "matrix * sides / sides[:, None]", "matrix", AUGMENT
    ),
    "augment: shifts the wrong way": Mutant("data/augment.py", "-matrix @ shift", "matrix @ shift", AUGMENT),
    "augment: scales the wrong way": Mutant(
        "data/augment.py", "torch.exp2(-0.2 * scale)", "torch.exp2(0.2 * scale)", AUGMENT
    ),
    "augment: told a turn that wasn't made": Mutant(
        "data/augment.py",
        "turned = [turn.cos() - 1, turn.sin()]",
        "turned = [turn.cos(), turn.sin()]",
        AUGMENT,
    ),
    "augment: every process draws the first one's share": Mutant(
        "train/module.py",
        "world_size, generator)[rank::world_size])",
        "world_size, generator)[: len(x)])",
        "train/test_conditions.py::test_two_processes_augment_the_batch_of_one",
    ),
    "emoji: tones in both splits": Mutant(
        "data/emoji.py",
        'Picture(variation["image"], k, category, tone=True)',
        'Picture(variation["image"], k + 1, category, tone=True)',
        "data/test_sources.py::test_no_emoji_is_in_both_splits",
    ),
    "nearest: itself for the nearest other": Mutant(
        "evaluate/distances.py",
        "found.append(best.amax(1).cpu())",
        "found.append(best.amin(1).cpu())",
        "evaluate/test_distances.py::test_the_nearest_training_image",
    ),
}


def found(mutant: Mutant) -> bool:
    """Whether the tests named by the mutant fail with a copy of the package that has it.

    In this process, which has torch and diffusers already: they take longer to import than most tests
    take to run. What is ours is imported anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "src" / "lit_diffusion"
        shutil.copytree(ROOT / "src" / "lit_diffusion", package)
        shutil.copytree(ROOT / "conf", Path(folder) / "conf")
        file = package / mutant.file
        source = file.read_text()
        if source.count(mutant.right) != 1:
            raise LookupError(f"{mutant.right!r} must stand once in {mutant.file}")
        file.write_text(source.replace(mutant.right, mutant.wrong))
        ours = {"lit_diffusion", *(path.stem for path in (ROOT / "tests").rglob("*.py"))} - {"mutants"}
        for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
            del sys.modules[name]
        sys.path.insert(0, str(package.parent))
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            code = pytest.main(["-qx", "-p", "no:cacheprovider", str(ROOT / "tests" / mutant.found_by)])
        sys.path.remove(str(package.parent))
        if sys.modules["lit_diffusion"].__path__[0] != str(package):
            raise ImportError(f"the tests ran with {sys.modules['lit_diffusion'].__path__}")
    if code not in (0, 1):  # neither green nor red: the tests did not run
        raise RuntimeError(output.getvalue())
    return code == 1


if __name__ == "__main__":
    os.chdir(ROOT)
    missed = []
    for name in sys.argv[1:] or MUTANTS:
        was_found = found(MUTANTS[name])
        missed += [] if was_found else [name]
        print(f"{'found' if was_found else 'NOT FOUND'} by {MUTANTS[name].found_by}: {name}", flush=True)
    if found(HARMLESS):  # last, after all that the others may have left in the process
        sys.exit("a harmless change was found")
    sys.exit(bool(missed))
