"""The mathematics of diffusion: process, prediction, denoiser, objective, weighting, time sampling, bound, noise."""

from diffsweep.diffusion.bound import Bound, variational_bound
from diffsweep.diffusion.clip_noise import INDEPENDENT, ClipNoise, IndependentNoise, ProgressiveNoise, SharedNoise
from diffsweep.diffusion.condition import Condition, Known, Pasted
from diffsweep.diffusion.consistency import ConsistencyPrediction
from diffsweep.diffusion.denoiser import (
    Denoised,
    Denoiser,
    NetworkDenoiser,
    NetworkInput,
    PlainDenoiser,
    as_denoiser,
    counting,
    network_input,
)
from diffsweep.diffusion.discretisation import Discretisation, Doubling, Grid, Growing, Pairs, Shrinking
from diffsweep.diffusion.distillation import leading_to
from diffsweep.diffusion.exact import (
    AsPredicted,
    GaussianDenoiser,
    GaussianMixtureDenoiser,
    GaussianSolution,
    Impulses,
)
from diffsweep.diffusion.interpolation import slerp
from diffsweep.diffusion.likelihood import LogLikelihood, ode_log_likelihood
from diffsweep.diffusion.measurement import Frames, Grey, Measurement, PixelMask, Product, SquareMeans
from diffsweep.diffusion.noise import Noise, Stream, fresh_noise
from diffsweep.diffusion.noise_ahead import BatchNoise, StepNoise
from diffsweep.diffusion.objective import DSM, SSM, VLB, Hybrid, Objective, Simple, sums_by_quarter
from diffsweep.diffusion.path import Move, joined, raised
from diffsweep.diffusion.prediction import EDM, X0, Eps, Flow, Prediction, Score, V
from diffsweep.diffusion.prediction_of_both import X0Eps
from diffsweep.diffusion.probability_flow import integrate, log_snr_of, velocity
from diffsweep.diffusion.process import (
    Step,
    add_noise,
    expand_to,
    factor,
    in_numbers,
    mean_at,
    mean_of_frames,
    posterior,
    prior,
    step_between,
    steps_of,
    transition,
)
from diffsweep.diffusion.separable import Separable
from diffsweep.diffusion.spacing import SPACINGS, spaced_times
from diffsweep.diffusion.straightness import straightness
from diffsweep.diffusion.time_sampling import (
    FixedTime,
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
    "ConsistencyPrediction",
    "Denoised",
    "Denoiser",
    "Discretisation",
    "Doubling",
    "EDMWeighting",
    "Eps",
    "FixedTime",
    "Flow",
    "Frames",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "GaussianSolution",
    "Grey",
    "Grid",
    "Growing",
    "Hybrid",
    "Importance",
    "Impulses",
    "IndependentNoise",
    "Known",
    "LogLikelihood",
    "LogNormal",
    "LogitNormal",
    "Measurement",
    "MinSNR",
    "Move",
    "NetworkDenoiser",
    "NetworkInput",
    "Noise",
    "Objective",
    "Pairs",
    "Pasted",
    "PixelMask",
    "PlainDenoiser",
    "Prediction",
    "Product",
    "ProgressiveNoise",
    "Score",
    "Separable",
    "SharedNoise",
    "Shrinking",
    "SigmoidWeighting",
    "Simple",
    "SquareMeans",
    "Step",
    "StepNoise",
    "Stratified",
    "Stream",
    "TimeSampling",
    "TruncatedSNR",
    "Uniform",
    "UniformWeighting",
    "V",
    "Weighting",
    "X0Eps",
    "add_noise",
    "as_denoiser",
    "counting",
    "expand_to",
    "factor",
    "fresh_noise",
    "in_numbers",
    "integrate",
    "joined",
    "leading_to",
    "log_snr_of",
    "mean_at",
    "mean_of_frames",
    "network_input",
    "ode_log_likelihood",
    "posterior",
    "prior",
    "raised",
    "slerp",
    "spaced_times",
    "step_between",
    "steps_of",
    "straightness",
    "stratified",
    "sums_by_quarter",
    "transition",
    "variational_bound",
    "velocity",
]
