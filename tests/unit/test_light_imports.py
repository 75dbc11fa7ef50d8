"""What a command imports before it works, and that whatever is left for later is the real thing when it is used."""

import json
import math
import subprocess
import sys
from types import ModuleType

import pytest

from scail2.models.light_imports import Deferred

HEAVY = [
    "peft",
    "scipy.stats",
    "scipy.optimize",
    "torch._dynamo",
    "torchao",
    "transformers.modeling_utils",
    "sympy",
    "ftfy",
]


def in_fresh_python(code: str) -> dict:
    """What ``code`` leaves in ``result``."""
    light = "from scail2.models.light_imports import defer; defer()\n"  # as every command begins
    program = f"import json, sys\nresult = {{}}\n{light}{code}\nprint(json.dumps(result))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def test_pipeline_comes_without_the_heavy_libraries_and_they_come_when_used():
    code = f"""
import scail2, torch
pipe = scail2.load_pipeline()
with pipe.progress_bar(total=1), pipe.transformer.cache_context("cond"):
    result["early"] = [name for name in {HEAVY} if name in sys.modules]
left = [name for name in sys.modules if type(sys.modules[name]).__name__ == "_StandIn"]
result["left"] = left
from importlib.metadata import packages_distributions
from diffusers.utils import import_utils
result["listed early"] = "_known" in vars(import_utils._package_map)
result["listed"] = import_utils._package_map["cv2" if "cv2" in import_utils._package_map else "PIL"] != []
result["as ever"] = dict(import_utils._package_map) == packages_distributions()

from diffusers.loaders import lora_base
from diffusers.hooks import layerwise_casting
plain = torch.nn.Linear(2, 2)
result["plain is an adapter"] = isinstance(plain, lora_base.BaseTunerLayer)
result["asking imports"] = "peft" in sys.modules

from peft.tuners.lora import Linear
adapter = Linear(torch.nn.Linear(2, 2), "a", config=__import__("peft").LoraConfig(r=1), r=1)
result["adapter is one"] = isinstance(adapter, lora_base.BaseTunerLayer) and not isinstance(plain, lora_base.BaseTunerLayer)
result["also for casting"] = isinstance(adapter, layerwise_casting.BaseTunerLayer)
with layerwise_casting.disable_input_dtype_casting(adapter):
    result["inside"] = adapter.cast_input_dtype_enabled
result["outside"] = adapter.cast_input_dtype_enabled

from importlib.util import find_spec
if find_spec("scipy"):  # nothing of ours needs it, but where it is, a scheduler that does finds the real one
    from diffusers import UniPCMultistepScheduler
    scheduler = UniPCMultistepScheduler(use_beta_sigmas=True)
    scheduler.set_timesteps(4)
    result["beta"] = [scheduler.sigmas.tolist()[1], scheduler.alphas_cumprod.shape[0]]
"""
    found = in_fresh_python(code)
    assert found["early"] == []
    assert found["left"] == []
    assert (found["listed early"], found["listed"], found["as ever"]) == (False, True, True)
    assert not found["plain is an adapter"]
    assert not found["asking imports"]
    assert found["adapter is one"]
    assert found["also for casting"]
    assert (found["inside"], found["outside"]) == (False, True)
    assert found.get("beta", [1])[0] > 0


def test_compiler_and_quantisers_work_after_a_light_import():
    code = """
from importlib import import_module
import scail2, torch
scail2.SCAIL2Pipeline
from diffusers.hooks.first_block_cache import FBCHeadBlockHook
from diffusers.quantizers.auto import AUTO_QUANTIZER_MAPPING
from diffusers import TorchAoConfig
from torchao.quantization import Int8WeightOnlyConfig
result["early"] = "torch._dynamo" in sys.modules and hasattr(sys.modules["torch._dynamo"], "OptimizedModule")
quantiser = AUTO_QUANTIZER_MAPPING["torchao"](TorchAoConfig(Int8WeightOnlyConfig(version=2)))
result["quantiser"] = [type(quantiser).__module__, type(quantiser).__name__]
compiled = torch.compile(lambda x: x.sin() + 1, backend="eager", fullgraph=True)
result["compiled"] = compiled(torch.zeros(2)).tolist()
from scail2.models.light_imports import uncompiled
inside = []
beside = uncompiled(lambda x: inside.append(torch.compiler.is_compiling()) or x + 1)
mixed = torch.compile(lambda x: beside(x.sin()).cos(), backend="eager")
result["mixed"] = [mixed(torch.full((1,), value)).item() for value in (0.0, 1.0)]
result["inside"] = inside
model = torch.nn.Linear(2, 2)
unwrap = import_module("diffusers.pipelines.pipeline_loading_utils")._unwrap_model
result["unwrapped"] = unwrap(model) is model and unwrap(torch.compile(model)) is model
from peft import LoraConfig, get_peft_model
adapted = get_peft_model(torch.nn.Sequential(model), LoraConfig(target_modules=["0"]))
result["unwrapped"] &= unwrap(adapted) is adapted.base_model.model
from transformers import PreTrainedModel
from diffusers.pipelines import pipeline_loading_utils as loading
result["whole"] = isinstance(PreTrainedModel, type) and issubclass(PreTrainedModel, loading.PreTrainedModel)
result["other"] = issubclass(torch.nn.Linear, loading.PreTrainedModel)
"""
    found = in_fresh_python(code)
    assert found["quantiser"] == ["diffusers.quantizers.torchao.torchao_quantizer", "TorchAoHfQuantizer"]
    assert found["compiled"] == [1.0, 1.0]
    assert found["mixed"] == pytest.approx([math.cos(1), math.cos(math.sin(1) + 1)])
    assert found["inside"] == [False, False]  # run as it is both times, and not traced into a graph
    assert found["unwrapped"]
    assert found["whole"]
    assert not found["other"]


def test_who_imports_the_package_gets_diffusers_whole():
    code = """
import sys
before = list(sys.meta_path)
import scail2
scail2.SCAIL2Pipeline
from diffusers.loaders import lora_base
from diffusers.utils.torch_utils import is_compiled_module
assert sys.meta_path[: len(before)] == before
assert isinstance(lora_base.BaseTunerLayer, type)
assert is_compiled_module.__module__ == "diffusers.utils.torch_utils"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_diffusers_that_is_there_already_stays_as_it_is():
    code = """
del sys.meta_path[0]  # as if nothing had been asked for yet
import diffusers.loaders.lora_base as base
defer()
result["class"] = isinstance(base.BaseTunerLayer, type)
result["finders"] = [type(each).__name__ for each in sys.meta_path if "Light" in type(each).__name__]
"""
    assert in_fresh_python(code) == {"class": True, "finders": []}


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module with a class in it, which nobody has imported."""
    module = ModuleType("scail2_test_library")
    module.Animal = type("Animal", (), {"legs": 4})
    monkeypatch.delitem(sys.modules, module.__name__, raising=False)
    return module


def test_deferred_class_is_the_real_one_once_it_is_there(library, monkeypatch):
    animal = Deferred(library.__name__, "Animal")
    dog = library.Animal()
    assert not isinstance(dog, animal)  # nobody can have made one before the import; here we cheat
    with pytest.raises(ModuleNotFoundError):
        animal()
    monkeypatch.setitem(sys.modules, library.__name__, library)
    assert isinstance(dog, animal)
    assert isinstance(3, (int, animal))
    assert not isinstance(3, animal)
    assert issubclass(library.Animal, animal)
    assert type(animal()) is library.Animal
    assert animal.legs == 4
    assert {library.Animal: 1}[animal] == 1

    class Cat(animal):
        pass

    assert Cat.__mro__[1] is library.Animal
