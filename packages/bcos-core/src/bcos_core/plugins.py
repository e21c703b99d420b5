"""Finding plugins by entry point, for the packages that have hooks. Imports neither torch nor pluggy.

Each package owns a pluggy manager for its hook specifications and hands it over here. One broken plugin never
stops the others: it is kept, with the reason, for ``bcos plugins`` to show.
"""

import difflib
import inspect
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from importlib.metadata import PackageNotFoundError, entry_points, version
from typing import Any, Generic, Protocol, TypeVar, Unpack, get_args, get_origin, get_type_hints

from bcos_core.errors import BcosError, first_line, shown
from bcos_core.plugin_guard import OURS, PluginError, PluginExitError, error_summary, plugin_errors, plugin_guard


class Named(Protocol):
    """A description that a hook returns: a frozen dataclass with a name."""

    @property
    def name(self) -> str:
        """What users call it."""


ResultT = TypeVar("ResultT")
Manager = Any
"""A :class:`pluggy.PluginManager`; this package does not depend on pluggy."""


@dataclass(frozen=True)
class PluginInfo:
    """One entry point, loaded or broken."""

    group: str
    name: str
    value: str
    distribution: str
    error: str | None = None
    seconds: float = field(default=0.0, compare=False)
    """How long importing it took; little where something else had imported it before."""

    @property
    def described(self) -> str:
        """Which plugin this is, for messages."""
        return f"the plugin {self.name} (entry point {self.value} of {self.distribution})"


@dataclass
class Plugins:
    """The plugins of one group: which there are, and which of them failed and why."""

    infos: list[PluginInfo] = field(default_factory=list)

    def mark_broken(self, name: str, error: str) -> None:
        """Note that the plugin called `name` failed."""
        self.infos = [replace(info, error=error) if info.name == name else info for info in self.infos]

    @contextmanager
    def using(self, name: str) -> Iterator[None]:
        """Run code of the plugin called `name`; any failure marks it as broken instead of being raised."""
        what = next((info.described for info in self.infos if info.name == name), f"the plugin {name}")
        try:
            with nullcontext() if is_ours(name) else plugin_guard(what):
                yield
        except Exception as reason:  # third-party code may raise anything
            self.mark_broken(name, error_summary(reason))


def is_ours(name: str) -> bool:
    """Whether a plugin, by its name in :class:`Plugins`, or a ``module:function`` is one of this project's own."""
    return name.partition(":")[0].partition(".")[0].replace("-", "_") in OURS


def load_plugins(manager: Manager, group: str) -> Plugins:
    """Import every entry point of `group`, and register its hooks; see :func:`load_entry_points`."""
    return load_entry_points(group, partial(_register, manager))


def load_entry_points(group: str, register: Callable[[Any, str], None]) -> Plugins:
    """Import and register every entry point of `group`, our own first, then the others by name.

    Args:
        register: called with what an entry point loads, and the plugin's name; what it raises marks it as broken.
    """
    plugins = Plugins()
    found = sorted(entry_points(group=group), key=lambda e: (not is_ours(_distribution(e)), _distribution(e), e.name))
    for number, entry in enumerate(found):
        name = f"{_distribution(entry)}:{entry.name}"
        if any(info.name == name for info in plugins.infos):
            name = f"{name}#{number}"
        plugins.infos.append(PluginInfo(group, name, entry.value, _distribution(entry)))
        start = time.perf_counter()
        with plugins.using(name):
            register(entry.load(), name)
        plugins.infos[-1] = replace(plugins.infos[-1], seconds=time.perf_counter() - start)
    return plugins


def has_plugins(group: str) -> bool:
    """Whether any installed package has an entry point of `group`; loads none."""
    return bool(entry_points(group=group))


def _register(manager: Manager, module: object, name: str) -> None:
    manager.register(module, name=name)
    try:
        manager.check_pending()
        _check_hooks(manager, module)
    except Exception:
        manager.unregister(name=name)
        raise


def _check_hooks(manager: Manager, module: object) -> None:
    """Refuse a plugin with no hook at all, and functions that are called like hooks and are none."""
    group = manager.project_name
    own = {caller.name for caller in manager.get_hookcallers(module) or ()}
    for name, caller in vars(manager.hook).items():
        if name not in own and caller.has_spec() and callable(getattr(module, name, None)):
            raise BcosError(f"its {name} is not marked as a hook; put @{group}.hookspecs.hookimpl above it")
        if any(i.plugin is module and (i.wrapper or i.hookwrapper) for i in caller.get_hookimpls()):
            raise BcosError(f"its {name} is a wrapper of the hook, which is not called; write the hook itself")
    if not own:
        members = [getattr(module, name, None) for name in dir(module)]
        others = {other for other in OURS if any(hasattr(member, f"{other}_impl") for member in members)}
        found = f"those it has are of {', '.join(sorted(others))}, whose entry points name it" if others else ""
        raise BcosError(f"it has no hook of {group}; {found or f'mark one with {group}.hookspecs.hookimpl'}")


def implementations(hook: Any, plugins: Plugins) -> list[Any]:
    """Implementations of a pluggy hook in the order of `plugins`, our own first, whatever order they ask for."""
    order = {info.name: position for position, info in enumerate(plugins.infos)}
    return sorted(hook.get_hookimpls(), key=lambda implementation: order.get(implementation.plugin_name, -1))


def first_result(hook: Any, kind: type[ResultT], **arguments: Any) -> ResultT | None:
    """Call a pluggy hook until an implementation has an answer, the last registered first.

    Raises:
        PluginError: a plugin failed, or answered with something else than a `kind`; it is named.
    """
    for implementation in reversed(hook.get_hookimpls()):
        what = f"{hook.name} of the plugin {implementation.plugin_name}"
        with plugin_errors(what, ours=is_ours(implementation.plugin_name)):
            result = implementation.function(*(arguments[name] for name in implementation.argnames))
        if result is not None:
            return checked(result, kind, what)
    return None


def checked(result: object, kind: type[ResultT], what: str) -> ResultT:
    """Return what code of a plugin gave; refuse anything but a `kind`."""
    if not isinstance(result, kind):
        raise PluginError(f"{what} gave {_type_name(result)}, needed {kind.__name__}")
    return result


def _type_name(value: object) -> str:
    return "None" if value is None else type(value).__name__


def _distribution(entry: Any) -> str:
    return str(entry.dist.name) if entry.dist is not None else "?"


def version_of(distribution: str) -> str | None:
    """Version of an installed distribution; None where it is not known."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


MAKERS: dict[tuple[str, str], str] = {}
"""Which package had a name, by its kind (``"model"``) and itself, as files of runs tell that have been read."""


def unknown(kind: str, name: str, choices: Iterable[str]) -> BcosError:
    """Return the error for a name that is not there: the package that had it, or a name that is close."""
    maker = MAKERS.get((kind, name))
    remedy = suggestion(name, choices) if maker is None else f"it came with {maker}; install that if you trust the run"
    return BcosError(f"there is no {kind} {shown(name)}; {remedy}")


SpecT = TypeVar("SpecT", bound=Named)


class Registry(Generic[SpecT]):
    """Descriptions by name, as the plugins of one hook return them.

    Args:
        kind: what they describe, for messages: ``"model"``.
        description: the type that the hook returns.
        hook: the pluggy hook caller, such as ``manager.hook.bcos_models_specs``.
        plugins: where a plugin that fails, or takes a name that is taken, is noted.
    """

    def __init__(self, kind: str, description: type[SpecT], hook: Any, plugins: Plugins) -> None:
        self.kind = kind
        self._description = description
        self._specs: dict[str, SpecT] = {}
        self._owners: dict[str, str] = {}
        for implementation in implementations(hook, plugins):
            with plugins.using(implementation.plugin_name):
                specs: list[SpecT] = list(implementation.function())
                for spec in specs:
                    self._add(spec, implementation.plugin_name)

    def _add(self, spec: SpecT, owner: str) -> None:
        if not isinstance(spec, self._description) or not isinstance(spec.name, str):
            raise BcosError(
                f"a {self.kind} is described by a {self._description.__name__} with a name, got {shown(spec)}"
            )
        if spec.name in self._specs:
            raise BcosError(
                f"the {self.kind} {spec.name!r} is already registered by {self._owners[spec.name]}; choose another name"
            )
        self._specs[spec.name] = spec
        self._owners[spec.name] = owner

    def __iter__(self) -> Iterator[SpecT]:
        return iter(self._specs.values())

    def owner(self, name: str) -> str:
        """Name of the plugin that registered `name`."""
        return self._owners[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._specs)

    def __getitem__(self, name: str) -> SpecT:
        """Look a description up; where there is none, the message suggests a name that is close."""
        if name not in self._specs:
            raise unknown(self.kind, name, self.names())
        return self._specs[name]

    def described(self, name: str) -> str:
        """What `name` is, and whose, for messages."""
        owner = self._owners[name]
        return f"the {self.kind} {name!r}" + ("" if is_ours(owner) else f" of the plugin {owner}")

    def running(self, name: str) -> AbstractContextManager[None]:
        """Run code that belongs to `name`; see :func:`bcos_core.plugin_guard.plugin_errors`."""
        return plugin_errors(self.described(name), ours=is_ours(self._owners[name]))

    def builder(self, name: str) -> Callable[..., Any]:
        """Import the function that the description of `name` names as its ``builder``.

        Raises:
            BcosError: no such name, or no such function.
        """
        spec: Any = self[name]
        with self.running(name):
            try:
                return resolve(spec.builder)
            except BcosError as reason:
                raise (
                    reason if is_ours(self._owners[name]) else PluginError(f"{self.described(name)}: {reason}")
                ) from reason

    def makers(self) -> dict[str, str]:
        """Package and version that each name which is not ours comes with."""
        others = {name: owner.partition(":")[0] for name, owner in self._owners.items() if not is_ours(owner)}
        return {name: f"{package} {version_of(package) or ''}".strip() for name, package in others.items()}


def suggestion(name: str, choices: Iterable[str]) -> str:
    """``did you mean 'x'?``, or what there is to choose from."""
    known = list(choices)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"choose from {', '.join(known[:20])}{', ...' if len(known) > 20 else ''}"


def resolve(reference: str) -> Callable[..., Any]:
    """Import the function that ``"module:function"`` names.

    It runs the module's code: `reference` must come from an installed plugin or from what a user typed.

    Raises:
        BcosError: no such module or function, or one whose import would end the program.
    """
    module, _, name = reference.partition(":")
    try:
        if module.startswith("."):
            raise ImportError("a relative name")
        if module not in sys.modules and module.partition(".")[0] not in OURS:
            with plugin_guard(f"the builder {reference!r}"):
                import_module(module)
        function: Any = getattr(import_module(module), name)
    except PluginExitError:
        raise
    except (ImportError, AttributeError, ValueError) as reason:
        raise BcosError(
            f"cannot load {shown(reference)}: {first_line(reason)}; a builder is named 'module:function'"
        ) from reason
    if not callable(function):
        raise BcosError(f"{shown(reference)} is a {type(function).__name__}, not a function")
    return function  # type: ignore[no-any-return] # reason: named by a string


def options_of(builder: Callable[..., Any]) -> list[str] | None:
    """Names of a builder's arguments, those of ``**options: Unpack[ATypedDict]`` too; None if it takes any."""
    names: list[str] = []
    for parameter in inspect.signature(builder).parameters.values():
        if parameter.kind is not parameter.VAR_KEYWORD:
            names.append(parameter.name)
        elif get_origin(parameter.annotation) is Unpack:
            names += get_type_hints(get_args(parameter.annotation)[0])
        else:
            return None
    return names


def takes(builder: Callable[..., Any], option: str) -> bool:
    """Whether a builder has an argument of that name."""
    names = options_of(builder)
    return names is None or option in names


def check_options(
    what: str, builder: Callable[..., Any], options: Iterable[str], *, inputs: Container[str] = ()
) -> None:
    """Refuse options that a builder does not take, naming one of them and one that is close.

    Args:
        what: What is built, for the message: ``"the model 'resnet18'"``.
        builder: The function that takes the options.
        options: Their names.
        inputs: Arguments of the builder that are no options.
    """
    names = options_of(builder)
    known = None if names is None else [name for name in names if name not in inputs]
    unknown = [] if known is None else [option for option in options if option not in known]
    if unknown:
        hint = suggestion(unknown[0], known) if known else "it has none"
        raise BcosError(f"{what} has no option {unknown[0]!r}; {hint}")
