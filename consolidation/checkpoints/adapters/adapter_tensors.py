"""Finds the parameters that the tensors of an adapter's file change. Reads headers alone.

Layers are called in three ways: as the model has them, as a checkpoint has them (experts one by
one, names of an older transformers), and, where peft wrapped a parameter and not a module
(`target_parameters`), by the module and how many wrappers lie around it.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from transformers.core_model_loading import WeightRenaming

from consolidation.checkpoints.accounting import Account
from consolidation.checkpoints.adapters.adapter_config import AdapterConfig
from consolidation.checkpoints.adapters.updates import (
    ListedUpdate,
    LowRankUpdate,
    MatrixUpdate,
    Pair,
    StackedUpdate,
)
from consolidation.checkpoints.conversion import Conversion
from consolidation.checkpoints.naming import Naming, numbered, some
from consolidation.checkpoints.not_served import belonging
from consolidation.checkpoints.tensor_file import (
    SERVED_DTYPES,
    RoundedTensor,
    StoredTensor,
    read_header,
)
from consolidation.errors import Refused
from representation.architecture.anatomy import Anatomy
from representation.architecture.experts import ExpertsModule

WEIGHTS = "adapter_model.safetensors"
PREFIX = "base_model.model."
WRAPPER = ".base_layer"
SIDE = re.compile(r"(?P<path>.+)\.lora_(?P<is_embedding>embedding_)?(?P<side>[AB])(\.weight)?")


@dataclass(slots=True)
class _Layer:
    """The factors of one adapted layer, by side, while they are collected."""

    is_embedding: bool
    sides: dict[str, StoredTensor] = field(default_factory=dict)


def with_adapter(
    config: AdapterConfig, anatomy: Anatomy, conversions: Mapping[str, Conversion]
) -> Account:
    """How the parameters of a base are made with the adapter merged.

    conversions: of the base, by parameter. Raises `Refused`, with names, where the adapter does
    not fit the base.
    """
    found = _Adaptation(config, anatomy, conversions)
    found.collect(read_header(config.directory / WEIGHTS))
    return Account(found.conversions, belonging(found.others, anatomy.model.state_dict()))


class _Adaptation:
    """One adapter's tensors, on their way to the parameters of one base."""

    def __init__(
        self, config: AdapterConfig, anatomy: Anatomy, conversions: Mapping[str, Conversion]
    ) -> None:
        self.conversions = dict(conversions)
        self.others: list[str] = []
        self._config = config
        self._anatomy = anatomy
        self._naming = Naming(anatomy)
        self._where = config.directory
        self._listed: dict[str, dict[int, list[tuple[str, Pair]]]] = {}

    def collect(self, stored: Mapping[str, StoredTensor]) -> None:
        if not stored:
            raise Refused(f"{self._where / WEIGHTS} holds no tensor")
        layers: dict[str, _Layer] = {}
        whole: dict[str, StoredTensor] = {}
        served = self._anatomy.model.state_dict()
        for key, tensor in stored.items():
            side = SIDE.fullmatch(key)
            found = self._parameter(side["path"] if side else key)
            if found is not None and not (found[0] in served or found[0] in self._anatomy.experts):
                self.others.append(found[0])
                continue
            if tensor.dtype not in SERVED_DTYPES:
                raise Refused(
                    f"{self._where}: {key} is stored as {tensor.dtype}; bf16, fp16 and fp32 can "
                    "be read"
                )
            if side is None:
                whole[key] = tensor
                continue
            layer = layers.setdefault(side["path"], _Layer(side["is_embedding"] is not None))
            layer.sides[side["side"]] = tensor
        self._check_names([*whole, *layers])
        for key, tensor in whole.items():
            self._replace(key, tensor)
        wrapped: dict[str, dict[int, Pair]] = {}
        for path, layer in layers.items():
            self._add(path, layer, wrapped)
        for module, pairs in wrapped.items():
            self._add_stacked(self._anatomy.experts[module], pairs)
        for target, experts in self._listed.items():
            self._add_listed(target, experts)

    def _check_names(self, keys: list[str]) -> None:
        """Raise `Refused` with the names that are of nothing in the model."""
        unknown = [key for key in keys if self._parameter(key) is None]
        if unknown:
            raise Refused(
                f"{self._where}: nothing in the base is called {some(unknown)}: the adapter is of "
                "another model, or of a kind that is not read"
            )

    def _parameter(self, key: str) -> tuple[str, str | None] | None:
        """The parameter of a tensor or a layer, or its experts module; None if there is none.

        With the pattern of the converter that makes it of several tensors.
        """
        name = key.removeprefix(PREFIX)
        while WRAPPER in name:
            name = name.replace(WRAPPER, "")
        for tried in (name, f"{name}.weight"):
            found, pattern = self._naming.find(tried)
            if found in self._naming.shapes.shapes:
                return found, pattern
        return self._module(name)

    def _module(self, name: str) -> tuple[str, None] | None:
        found, _ = self._naming.find(f"{name}.down_proj")
        module = found.rpartition(".")[0]
        return (module, None) if module in self._anatomy.experts else None

    def _target(self, key: str) -> tuple[str, str | None]:
        """A parameter that the base holds for itself alone, or an experts module."""
        found = self._parameter(key)
        assert found is not None, "names are checked first"
        tied = dict(self._anatomy.model.all_tied_weights_keys)
        if found[0] in {*tied, *tied.values()}:
            names = " and ".join(sorted({found[0], *tied, *tied.values()}))
            raise Refused(
                f"{self._where}: {key} changes one of {names}, which are one tensor in the base: "
                "merge the adapter with peft, and give the merged model"
            )
        return found

    def _replace(self, key: str, tensor: StoredTensor) -> None:
        """A tensor that was trained as a whole (`modules_to_save`, biases)."""
        name, pattern = self._target(key)
        shape = self._naming.shapes.shapes.get(name)
        if shape is None or pattern is not None:
            raise Refused(f"{self._where}: {key} is a whole tensor of experts: it is not read")
        if tensor.shape != shape:
            raise Refused(
                f"{self._where}: {key} is {list(tensor.shape)}; the base's {name} is {list(shape)}"
                ": if the adapter is for this base, merge it with peft, and give the merged model"
            )
        dtype = self.conversions[name].sources[0][1].dtype
        source = tensor if tensor.dtype == dtype else RoundedTensor(tensor, dtype)
        self.conversions[name] = Conversion(
            name, WeightRenaming(key, name), ((key, source),), self._naming.shapes
        )

    def _add(self, path: str, layer: _Layer, wrapped: dict[str, dict[int, Pair]]) -> None:
        """Factors of one layer; those of stacked experts are left in `wrapped`, by depth."""
        name, pattern = self._target(path)
        own = path.removeprefix(PREFIX)
        if name in self._anatomy.experts:
            depth = own.count(WRAPPER)
            wrapped.setdefault(name, {})[depth] = self._pair(path, layer, 1.0)
            return
        names = [own, f"{own}.{name.rpartition('.')[2]}"]
        pair = self._pair(path, layer, 1.0)
        pair = replace(pair, scale=self._config.scale(names, pair.rank))
        if pattern is not None:
            module, _, parameter = name.rpartition(".")
            experts = self._anatomy.experts.get(module)
            if experts is None or parameter not in experts.shape.matrices or "*." not in pattern:
                raise Refused(f"{self._where}: {path} is a part of {name}: it cannot be adapted")
            number = numbered(pattern, f"{own}.weight")[1]
            self._listed.setdefault(name, {}).setdefault(number, []).append((pattern, pair))
            return
        shape = self._naming.shapes.shapes[name]
        if layer.is_embedding:
            shape = shape[::-1]
        self._check_shape(path, (pair.left.shape[0], pair.right.shape[1]), shape, name)
        self._update(name, MatrixUpdate(pair, is_transposed=layer.is_embedding))

    def _pair(self, path: str, layer: _Layer, scale: float) -> Pair:
        for side in "AB":
            if side not in layer.sides:
                raise Refused(f"{self._where}: {path} has no lora_{side}")
        left, right = layer.sides["B"], layer.sides["A"]
        if (len(left.shape), len(right.shape)) != (2, 2) or left.shape[1] != right.shape[0]:
            raise Refused(
                f"{self._where}: {path}: lora_A is {list(right.shape)} and lora_B "
                f"{list(left.shape)}: they do not fit together"
            )
        return Pair(left, right, scale)

    def _add_stacked(self, experts: ExpertsModule, pairs: Mapping[int, Pair]) -> None:
        """Pairs of an experts module, by how many wrappers lie around: the first is innermost."""
        module, count = experts.module, experts.num_experts
        named = [
            name
            for name in experts.shape.parameters
            if self._config.names_parameter(f"{module}.{name}")
        ]
        if sorted(pairs) != list(range(len(named))):
            raise Refused(
                f"{self._where}: target_parameters names {len(named)} parameters of {module} "
                f"({', '.join(named) or 'none'}), and the file has factors of {len(pairs)}"
            )
        for depth, pair in pairs.items():
            name = named[len(named) - 1 - depth]
            target = f"{module}.{name}"
            if name not in experts.shape.matrices:
                raise Refused(f"{self._where}: {target} is adapted, and is no matrix")
            if pair.rank % count:
                raise Refused(
                    f"{self._where}: the factors of {target} have {pair.rank} rows, which "
                    f"{count} experts cannot share"
                )
            scale = self._config.scale([target], pair.rank // count)
            self._check_shape(
                target,
                (pair.left.shape[0], pair.right.shape[1]),
                experts.shape.matrix(name),
                target,
            )
            self._update(
                target,
                StackedUpdate(replace(pair, scale=scale), count, experts.shape.transposed),
            )

    def _add_listed(self, target: str, experts: Mapping[int, list[tuple[str, Pair]]]) -> None:
        """Pairs of single experts' matrices."""
        module, _, name = target.rpartition(".")
        there = self._anatomy.experts[module]
        beyond = [index for index in experts if index >= there.num_experts]
        if beyond:
            raise Refused(
                f"{self._where}: expert {min(beyond)} of {module} is adapted, and the base has "
                f"{there.num_experts}"
            )
        found = ListedUpdate(
            target,
            {index: tuple(pairs) for index, pairs in experts.items()},
            self._naming.converter(next(iter(experts.values()))[0][0]),
            self._naming.shapes,
            there.shape.transposed,
        )
        checked = set()
        for index, pairs in found.experts.items():
            shapes = tuple((p, pair.left.shape, pair.right.shape) for p, pair in pairs)
            if shapes not in checked:
                self._check_listed(found, index, there.shape.matrix(name))
                checked.add(shapes)
        self._update(target, found)

    def _check_listed(self, found: ListedUpdate, index: int, shape: tuple[int, int]) -> None:
        columns = {pair.right.shape[1] for _, pair in found.experts[index]}
        try:
            own = found.shape(index)
        except Exception as error:  # operations of the registry raise what torch raises
            raise Refused(
                f"{self._where}: the factors of expert {index} of {found.target} do not fit "
                f"together: {error}"
            ) from error
        if len(columns) != 1 or own != shape:
            raise Refused(
                f"{self._where}: the factors of expert {index} of {found.target} are of a matrix "
                f"{list(own)}; the base's is {list(shape)}"
            )

    def _check_shape(
        self, path: str, own: tuple[int, ...], shape: tuple[int, ...], name: str
    ) -> None:
        if own != tuple(shape):
            raise Refused(
                f"{self._where}: the factors of {path} are of a matrix {list(own)}; the base's "
                f"{name} is {list(shape)}"
            )

    def _update(self, name: str, update: LowRankUpdate) -> None:
        conversion = self.conversions[name]
        if name in conversion.updates:
            raise Refused(f"{self._where}: {name} is adapted twice, under two names")
        self.conversions[name] = replace(conversion, updates={**conversion.updates, name: update})
