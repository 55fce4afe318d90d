r"""Samplers turn noise into data: they take x from t = 1 to t = 0 over any denoiser.

A denoiser estimates :math:`x_0, \epsilon` with :math:`x_t = \alpha_t x_0 + \sigma_t \epsilon`. The deterministic
samplers solve the probability-flow ODE :math:`dx = x_0 \, d\alpha + \epsilon \, d\sigma`, the stochastic ones add noise
on the way. A sampler produces a trajectory: the states x at the times from ``sampler.start`` to ``sampler.stop``.
"""

from diffsweep.samplers.ancestral import Ancestral
from diffsweep.samplers.base import Callback, Sampler, State
from diffsweep.samplers.conditioned import ConditionedDenoiser
from diffsweep.samplers.consistency import ConsistencySampler
from diffsweep.samplers.ddim import DDIM, Euler, EulerAncestral
from diffsweep.samplers.deis import DEIS
from diffsweep.samplers.dpm_solver import DPMSolver
from diffsweep.samplers.dpm_solver_pp import DPMSolverPP
from diffsweep.samplers.euler_maruyama import EulerMaruyama
from diffsweep.samplers.heun import Heun
from diffsweep.samplers.langevin import Langevin
from diffsweep.samplers.lms import LMS
from diffsweep.samplers.ode import ODE
from diffsweep.samplers.plms import PLMS
from diffsweep.samplers.predictor_corrector import PredictorCorrector
from diffsweep.samplers.solved import Solved
from diffsweep.samplers.unipc import UniPC
from diffsweep.samplers.watch import tested_later

__all__ = [
    "DDIM",
    "DEIS",
    "LMS",
    "ODE",
    "PLMS",
    "Ancestral",
    "Callback",
    "ConditionedDenoiser",
    "ConsistencySampler",
    "DPMSolver",
    "DPMSolverPP",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Sampler",
    "Solved",
    "State",
    "UniPC",
    "tested_later",
]
