"""diffusers without everything that it imports when it is imported.

diffusers' modules import, at their top, whatever they might need and find installed: peft, torchao, bitsandbytes, most of
transformers, scipy and torch's compiler. Together these take two thirds of the time until a pipeline can be loaded, and most runs
use none of them. `defer` makes the next import of diffusers put stand-ins in their place: a class or function under a stand-in
is imported when it is called, derived from or looked into. Asking whether something is an instance of such a class imports
nothing: as long as nobody has imported the class there are no instances of it.

Only the command line does so, for processes of its own; whoever imports the package gets diffusers as it is. The libraries
themselves stay as they are: whoever imports one gets it whole. Where diffusers was imported before, nothing is deferred.
"""

import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module, metadata
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_DEFERRED = (
    "bitsandbytes",
    "diffusers.quantizers.torchao",
    "peft.helpers",
    "peft.tuners.tuners_utils",
    "scipy.integrate",
    "scipy.stats",
    "torch._dynamo",
    "torchao.utils",
)
# Names that diffusers takes from the package `transformers`, and the modules that define them.
_OF_TRANSFORMERS = {
    "AutoImageProcessor": "transformers.models.auto.image_processing_auto",
    "CLIPTextModel": "transformers.models.clip.modeling_clip",
    "CLIPTextModelWithProjection": "transformers.models.clip.modeling_clip",
    "Dinov2WithRegistersConfig": "transformers.models.dinov2_with_registers.configuration_dinov2_with_registers",
    "Dinov2WithRegistersModel": "transformers.models.dinov2_with_registers.modeling_dinov2_with_registers",
    "PreTrainedModel": "transformers.modeling_utils",
    "SiglipVisionConfig": "transformers.models.siglip.configuration_siglip",
    "SiglipVisionModel": "transformers.models.siglip.modeling_siglip",
    "ViTMAEConfig": "transformers.models.vit_mae.configuration_vit_mae",
    "ViTMAEModel": "transformers.models.vit_mae.modeling_vit_mae",
}
# What this package uses of diffusers, imported while the stand-ins stand.
_USED = (
    "diffusers.guiders",
    "diffusers.hooks",
    "diffusers.loaders.lora_pipeline",
    "diffusers.loaders.peft",
    "diffusers.loaders.single_file_model",
    "diffusers.models.autoencoders.vae",
    "diffusers.models.modeling_utils",
    "diffusers.models.transformers.transformer_wan",
    "diffusers.pipelines.pipeline_utils",
    "diffusers.schedulers.scheduling_dpmsolver_multistep",
    "diffusers.schedulers.scheduling_flow_match_euler_discrete",
    "diffusers.schedulers.scheduling_unipc_multistep",
)


class Deferred:
    """Stands for a class or function of a module that is not imported yet.

    Args:
        module: the one that defines it.
        name: what it is called there.
    """

    def __init__(self, module: str, name: str):
        self._module, self._name = module, name

    def _real(self) -> Any:
        if isinstance(sys.modules.get(self._module), _StandIn):  # used while diffusers is still being imported
            del sys.modules[self._module]
        return getattr(import_module(self._module), self._name)

    def _known(self) -> Any:
        """The real one if somebody has imported it, else None."""
        module = sys.modules.get(self._module)
        return None if isinstance(module, _StandIn) else getattr(module, self._name, None)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return self._real()(*arguments, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real(), name)

    def __mro_entries__(self, bases: tuple) -> tuple[type]:
        return (self._real(),)

    def __instancecheck__(self, instance: object) -> bool:
        known = self._known()
        return known is not None and isinstance(instance, known)

    def __subclasscheck__(self, subclass: type) -> bool:
        known = self._known()
        return known is not None and issubclass(subclass, known)

    def __eq__(self, other: object) -> bool:
        return self is other or (other is not None and self._known() is other)

    def __hash__(self) -> int:
        return hash(self._real())

    def __repr__(self) -> str:
        return f"<{self._module}.{self._name}, imported when used>"


class _StandIn(ModuleType):
    """A module of which every name is `Deferred`, but for those that it has."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return Deferred(self.__name__, name)


def _compiler() -> ModuleType:
    """Stands for torch's compiler, whose marks on functions and classes are set while these are defined."""
    module: Any = _StandIn("torch._dynamo")
    module.disable = uncompiled
    # Concerns how such a class is made inside a compiled function; diffusers, too, leaves it out where nothing compiles.
    module.allow_in_graph = lambda cls: cls
    return module


def uncompiled(function: Callable | None = None, recursive: bool = True, **_: Any) -> Callable:
    """``torch.compiler.disable``, which waits with importing the compiler until somebody else has: before, nothing compiles."""
    from torch._compile import _disable_dynamo  # torch's own, which waits for the first call

    if function is None:
        return functools.partial(uncompiled, recursive=recursive)
    disabled = _disable_dynamo(function, recursive)

    @functools.wraps(function)
    def call(*arguments: Any, **named: Any) -> Any:
        return (disabled if "torch._dynamo.eval_frame" in sys.modules else function)(*arguments, **named)

    return call


@contextmanager
def _standing_in() -> Iterator[None]:
    """Stand-ins in the place of what is not imported yet, for as long as the context lasts."""
    with ExitStack() as stack:
        stack.callback(setattr, metadata, "packages_distributions", metadata.packages_distributions)
        metadata.packages_distributions = Distributions
        for name in _DEFERRED:
            if name in sys.modules:
                continue
            spec = PathFinder.find_spec(name) if "." not in name else None
            if spec is not None or "." in name:
                sys.modules[name] = _compiler() if name == "torch._dynamo" else _StandIn(name)
                sys.modules[name].__spec__ = spec  # whether a library is installed is asked of it
                stack.callback(sys.modules.pop, name, None)
        transformers = import_module("transformers")
        for name, module in _OF_TRANSFORMERS.items():
            if module not in sys.modules:
                setattr(transformers, name, Deferred(module, name))
                stack.callback(vars(transformers).pop, name, None)
        yield


_packages_distributions = metadata.packages_distributions


class Distributions(Mapping[str, list[str]]):
    """``packages_distributions()`` of the standard library, which reads every library's list of files, when it is asked."""

    @functools.cached_property
    def _known(self) -> Mapping[str, list[str]]:
        return _packages_distributions()

    def __getitem__(self, package: str) -> list[str]:
        return self._known[package]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


def is_compiled_module(module: Any) -> bool:
    """Whether a module is wrapped by ``torch.compile``: diffusers' question, which imports the compiler to ask."""
    compiler = sys.modules.get("torch._dynamo.eval_frame")
    return compiler is not None and isinstance(module, compiler.OptimizedModule)


def unwrapped(model: Any) -> Any:
    """A model without the wrappers of ``torch.compile`` and peft: diffusers' function, which imports peft to ask."""
    peft = sys.modules.get("peft.peft_model")
    if is_compiled_module(model):
        model = model._orig_mod
    if peft is not None and isinstance(model, peft.PeftModel):
        model = model.base_model.model
    return model


# Functions of diffusers that import a library to ask whether anything is wrapped by it; nothing is by one that is not there.
_ASKING = {
    "diffusers.utils.torch_utils": ("is_compiled_module", is_compiled_module),
    "diffusers.pipelines.pipeline_loading_utils": ("_unwrap_model", unwrapped),
}


class _LightLoader(Loader):
    """Loads diffusers as its own loader does, with stand-ins."""

    def __init__(self, own: Any):
        self._own = own

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._own.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        if module.__spec__ is not None:
            module.__spec__.loader = self._own
        with _standing_in():
            self._own.exec_module(module)
            for name, (asking, ours) in _ASKING.items():
                setattr(import_module(name), asking, ours)
            for name in _USED:
                import_module(name)


class _LightFinder(MetaPathFinder):
    """Notices the first import of diffusers, and is gone afterwards."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != "diffusers":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _LightLoader(spec.loader)
        return spec


def defer() -> None:
    """Makes the next import of diffusers a light one; imports nothing, and does nothing where diffusers is there already."""
    if "diffusers" not in sys.modules and not any(isinstance(each, _LightFinder) for each in sys.meta_path):
        sys.meta_path.insert(0, _LightFinder())
