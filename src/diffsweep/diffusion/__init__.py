"""The mathematics of diffusion: process, prediction, denoiser, objective, weighting, time sampling, bound, noise."""

from diffsweep.diffusion.bound import Bound, variational_bound
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, Denoiser, NetworkDenoiser
from diffsweep.diffusion.exact import GaussianDenoiser, GaussianMixtureDenoiser
from diffsweep.diffusion.likelihood import LogLikelihood, ode_log_likelihood
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.objective import DSM, SSM, VLB, Hybrid, Objective, Simple, sums_by_quarter
from diffsweep.diffusion.prediction import EDM, V, X0, Eps, Flow, Prediction, Score
from diffsweep.diffusion.process import (
    Step,
    add_noise,
    expand_to,
    factor,
    posterior,
    prior,
    step_between,
    transition,
    walk,
)
from diffsweep.diffusion.time_sampling import (
    Importance,
    LogitNormal,
    LogNormal,
    Stratified,
    TimeSampling,
    Uniform,
    stratified,
)
from diffsweep.diffusion.weighting import (
    P2,
    SNR,
    EDMWeighting,
    MinSNR,
    SigmoidWeighting,
    TruncatedSNR,
    UniformWeighting,
    Weighting,
)

__all__ = [
    "Bound",
    "variational_bound",
    "Condition",
    "Denoised",
    "Denoiser",
    "NetworkDenoiser",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "LogLikelihood",
    "ode_log_likelihood",
    "Noise",
    "Stream",
    "DSM",
    "SSM",
    "VLB",
    "Hybrid",
    "Objective",
    "Simple",
    "sums_by_quarter",
    "EDM",
    "V",
    "X0",
    "Eps",
    "Flow",
    "Prediction",
    "Score",
    "Step",
    "add_noise",
    "expand_to",
    "factor",
    "posterior",
    "prior",
    "step_between",
    "transition",
    "walk",
    "Importance",
    "LogitNormal",
    "LogNormal",
    "Stratified",
    "TimeSampling",
    "Uniform",
    "stratified",
    "P2",
    "SNR",
    "EDMWeighting",
    "MinSNR",
    "SigmoidWeighting",
    "TruncatedSNR",
    "UniformWeighting",
    "Weighting",
]
