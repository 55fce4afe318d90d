"""Samplers: walks from t = 1 to t = 0 over any denoiser."""

from diffsweep.samplers.ancestral import Ancestral
from diffsweep.samplers.base import Callback, Sampler, State
from diffsweep.samplers.conditioned import ConditionedDenoiser
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
from diffsweep.samplers.unipc import UniPC

__all__ = [
    "DDIM",
    "DEIS",
    "LMS",
    "ODE",
    "PLMS",
    "Ancestral",
    "Callback",
    "ConditionedDenoiser",
    "DPMSolver",
    "DPMSolverPP",
    "Euler",
    "EulerAncestral",
    "EulerMaruyama",
    "Heun",
    "Langevin",
    "PredictorCorrector",
    "Sampler",
    "State",
    "UniPC",
]
