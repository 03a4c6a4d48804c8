"""Values copied into a module are those that PyTorch's own way copies, wherever it would do more as well."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from profl.bench.models import ModelSpec
from profl.bench.models.loading import copy_into


def values_for(module: nn.Module) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        name: torch.randn(value.shape, generator=generator).to(value.dtype)
        for name, value in module.state_dict().items()
    }


@pytest.mark.parametrize("model", ["resnet18", "resnet18:group", "vit", "mobilenet_v2"])
def test_a_copy_is_what_pytorch_would_load(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    copied, loaded = (ModelSpec(model, 8, 10).build() for _ in range(2))
    values, before = values_for(copied), [parameter.data_ptr() for parameter in copied.parameters()]
    loaded.load_state_dict(values)
    monkeypatch.setattr(nn.Module, "load_state_dict", lambda *_: pytest.fail("it is only copied"))
    copy_into(copied, values | {"of another": torch.zeros(1)})
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in copied.state_dict().items())
    assert [parameter.data_ptr() for parameter in copied.parameters()] == before


def test_values_that_are_trained_elsewhere_leave_no_graph() -> None:
    module, other = nn.Linear(2, 3), nn.Linear(2, 3)
    copy_into(module, dict(other.named_parameters()))
    assert torch.equal(module.weight, other.weight)
    assert module.weight.is_leaf
    assert module.weight.requires_grad


def test_a_value_that_is_missing_or_of_another_shape_is_refused() -> None:
    module = nn.Linear(2, 3)
    with pytest.raises(KeyError, match="bias"):
        copy_into(module, {"weight": torch.zeros(3, 2)})
    with pytest.raises(RuntimeError, match="size mismatch for bias"):
        copy_into(module, {"weight": torch.zeros(3, 2), "bias": torch.zeros(1)})


class Told(nn.Linear):
    """Loads its state in a way of its own."""

    loaded = 0

    def _load_from_state_dict(self, *arguments: Any) -> None:
        self.loaded += 1
        super()._load_from_state_dict(*arguments)


class Extra(nn.Linear):
    """Has a state that is no parameter."""

    extra = torch.zeros(1)

    def get_extra_state(self) -> Tensor:
        return self.extra.clone()

    def set_extra_state(self, state: Tensor) -> None:
        self.extra = state


def test_what_loads_its_state_in_a_way_of_its_own_still_does() -> None:
    told, extra, hooked = Told(2, 3), Extra(2, 3), nn.Linear(2, 3)
    seen: list[object] = []
    hooked.register_load_state_dict_post_hook(lambda *_: seen.append(None))
    for module in (told, extra, hooked):
        copy_into(nn.Sequential(module), values_for(nn.Sequential(module)))
    assert told.loaded == 1
    assert extra.extra.item() != 0
    assert len(seen) == 1


class Cloning(nn.Linear):
    """Hands out copies of what it holds, and can load them."""

    def _save_to_state_dict(self, destination: dict[str, Tensor], prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[prefix + "bias"] = destination[prefix + "bias"].clone()


def cloning_all(module: nn.Module) -> nn.Module:
    module.register_state_dict_post_hook(lambda _, state, *rest: state.update({k: v.clone() for k, v in state.items()}))
    return module


def test_a_module_that_hands_out_copies_of_its_state_is_loaded_all_the_same() -> None:
    for build in (lambda: Cloning(2, 3), lambda: cloning_all(nn.Linear(2, 3))):
        module = nn.Sequential(build())
        values = values_for(module)
        copy_into(module, values)
        assert torch.equal(module[0].weight, values["0.weight"])
        assert torch.equal(module[0].bias, values["0.bias"])


def test_a_loader_of_the_module_s_own_is_called_wherever_it_was_set() -> None:
    class Loader(nn.Linear):
        def load_state_dict(self, *arguments: Any, **more: Any) -> Any:
            raise NotImplementedError

    on_instance = nn.Linear(2, 3)
    on_instance._load_from_state_dict = Told._load_from_state_dict.__get__(on_instance)  # type: ignore[method-assign]
    with pytest.raises(NotImplementedError):
        copy_into(Loader(2, 3), values_for(Loader(2, 3)))
    with pytest.raises((TypeError, AttributeError)):
        copy_into(on_instance, values_for(on_instance))


class Hiding(nn.Module):
    """Hides a part from whoever goes through its modules, as from an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.student, self.teacher = nn.Linear(2, 2), nn.Linear(2, 2)

    def named_modules(self, *arguments: Any, **more: Any) -> Any:
        return (found for found in super().named_modules(*arguments, **more) if "teacher" not in found[0])


class Delegating(nn.Module):
    """Has the state of what it wraps, under its names."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2)
        self.state_dict = self.inner.state_dict  # type: ignore[method-assign]
        self.load_state_dict = self.inner.load_state_dict  # type: ignore[method-assign]


@pytest.mark.parametrize("kind", [Hiding, Delegating, nn.ReLU])
def test_state_is_what_a_module_says_that_it_is(kind: type[nn.Module]) -> None:
    module = kind()
    values = values_for(module)
    copy_into(module, values)
    assert all(torch.equal(value, values[name]) for name, value in module.state_dict().items())
    if values:
        with pytest.raises(KeyError):
            copy_into(module, dict(list(values.items())[:-1]))


def test_a_name_that_a_hook_hides_is_missed_as_pytorch_misses_it() -> None:
    module = nn.Linear(2, 3)
    module.register_state_dict_post_hook(lambda _, state, *rest: state.__delitem__("bias"))
    with pytest.raises(RuntimeError, match="Missing key"):
        copy_into(module, values_for(module))
