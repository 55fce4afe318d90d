"""The mathematics of diffusion: process, prediction, denoiser, objective, weighting, time sampling, bound, noise."""

from diffsweep.diffusion.bound import Bound, variational_bound
from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise, IndependentNoise, ProgressiveNoise, SharedNoise
from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, Denoiser, NetworkDenoiser, NetworkInput, counting, network_input
from diffsweep.diffusion.exact import AsPredicted, GaussianDenoiser, GaussianMixtureDenoiser, Impulses
from diffsweep.diffusion.interpolation import slerp
from diffsweep.diffusion.likelihood import LogLikelihood, ode_log_likelihood
from diffsweep.diffusion.noise import BatchNoise, Noise, Stream
from diffsweep.diffusion.objective import DSM, SSM, VLB, Hybrid, Objective, Simple, sums_by_quarter
from diffsweep.diffusion.prediction import EDM, X0, Eps, Flow, Prediction, Score, V
from diffsweep.diffusion.probability_flow import integrate, log_snr_of, velocity
from diffsweep.diffusion.process import (
    Step,
    add_noise,
    expand_to,
    factor,
    mean_at,
    mean_of_frames,
    posterior,
    prior,
    step_between,
    transition,
    walk,
)
from diffsweep.diffusion.spacing import SPACINGS, walk_times
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
    "DSM",
    "EDM",
    "INDEPENDENT",
    "P2",
    "SNR",
    "SPACINGS",
    "SSM",
    "VLB",
    "X0",
    "AsPredicted",
    "BatchNoise",
    "Bound",
    "ClipNoise",
    "Condition",
    "Denoised",
    "Denoiser",
    "EDMWeighting",
    "Eps",
    "Flow",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "Hybrid",
    "Importance",
    "Impulses",
    "IndependentNoise",
    "LogLikelihood",
    "LogNormal",
    "LogitNormal",
    "MinSNR",
    "NetworkDenoiser",
    "NetworkInput",
    "Noise",
    "Objective",
    "Prediction",
    "ProgressiveNoise",
    "Score",
    "SharedNoise",
    "SigmoidWeighting",
    "Simple",
    "Step",
    "Stratified",
    "Stream",
    "TimeSampling",
    "TruncatedSNR",
    "Uniform",
    "UniformWeighting",
    "V",
    "Weighting",
    "add_noise",
    "counting",
    "expand_to",
    "factor",
    "integrate",
    "log_snr_of",
    "mean_at",
    "mean_of_frames",
    "network_input",
    "ode_log_likelihood",
    "posterior",
    "prior",
    "slerp",
    "step_between",
    "stratified",
    "sums_by_quarter",
    "transition",
    "variational_bound",
    "velocity",
    "walk",
    "walk_times",
]
