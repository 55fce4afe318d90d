"""The mathematics of diffusion: process, prediction, denoiser, objective, noise."""

from diffsweep.diffusion.condition import Condition
from diffsweep.diffusion.denoiser import Denoised, Denoiser, NetworkDenoiser
from diffsweep.diffusion.exact import GaussianDenoiser, GaussianMixtureDenoiser
from diffsweep.diffusion.noise import Noise, Stream
from diffsweep.diffusion.objective import Objective, Simple, sums_by_quarter
from diffsweep.diffusion.prediction import X0, Eps, Prediction, V
from diffsweep.diffusion.process import Step, add_noise, expand_to, factor, posterior, prior, step_between, transition
from diffsweep.diffusion.time_sampling import TimeSampling, Uniform, stratified

__all__ = [
    "X0",
    "Condition",
    "Denoised",
    "Denoiser",
    "Eps",
    "GaussianDenoiser",
    "GaussianMixtureDenoiser",
    "NetworkDenoiser",
    "Noise",
    "Objective",
    "Prediction",
    "Simple",
    "Step",
    "Stream",
    "TimeSampling",
    "Uniform",
    "V",
    "add_noise",
    "expand_to",
    "factor",
    "posterior",
    "prior",
    "step_between",
    "stratified",
    "sums_by_quarter",
    "transition",
]
