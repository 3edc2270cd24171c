"""An accelerator that is not there: tensors that compute on the CPU, say that they live on `emu:0`, and refuse what a GPU's
tensors refuse. Whatever runs on it keeps a GPU's rules of devices, and no GPU is needed to see that.

    mixed devices        an operation on tensors here and there, but for numbers of no dimension in pointwise operations,
                         copies, and indices on the CPU into a tensor of the device
    memory               .numpy(), NumPy's and DLPack's protocols, pinning, and data_ptr() for code that would read there
    random numbers       a generator of the CPU; what is drawn here comes from the device's own stream
    kernels              products of integers, which CUDA lacks
    autocast             the lists of CUDA: products in bfloat16, sums, norms, exponentials and the like in float32

What it cannot show: the kernels themselves, their speed, streams, memory, and several devices.

The device exists in the process once `EMU` is imported, and does nothing to tensors that are not on it. Inside `installed()`
runs compute on it, and `Module.to` keeps each parameter the object that it was, as a GPU's `.to` does.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration

from zero import runtime

aten = torch.ops.aten
# May ask for the address of a tensor: as its identity, not to read there
IDENTIFIERS = {"torch", "transformers", "safetensors", "huggingface_hub", "peft", "accelerate"}
PRODUCTS = "mm bmm addmm baddbmm addbmm mv addmv dot".split()
# Of torch's autocast_mode.h for CUDA
LOWER_PRECISION = [*PRODUCTS, *"matmul linear einsum chain_matmul scaled_dot_product_attention conv1d conv2d".split()]
FLOAT32 = """acos asin cosh erfinv exp expm1 log log10 log2 log1p reciprocal rsqrt sinh tan pow softplus layer_norm
    native_layer_norm cosine_similarity nll_loss kl_div l1_loss smooth_l1_loss mse_loss dist cdist logsumexp softmax
    log_softmax prod cumprod cumsum sum norm linalg_vector_norm""".split()
CASTS = {torch.float16, torch.bfloat16}


class _Device(backend_registration._DummyBackendModule):
    """What torch needs of a device's module. Its random numbers are a stream of their own, as a GPU's are."""

    def __init__(self) -> None:
        self.generator = torch.Generator().manual_seed(0)
        self.operations = 0  # computed so far

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]

    def manual_seed_all(self, seed: int) -> None:
        self.generator.manual_seed(seed)

    def get_rng_state(self, device: Any = None) -> Tensor:
        return self.generator.get_state()

    def set_rng_state(self, state: Tensor, device: Any = None) -> None:
        self.generator.set_state(state)

    def synchronize(self, device: Any = None) -> None:
        pass


class DeviceTensor(torch.Tensor):
    """A tensor of the device; its numbers are in `host`, which only this file touches."""

    host: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls: type[DeviceTensor], host: Tensor) -> DeviceTensor:
        tensor = torch.Tensor._make_wrapper_subclass(
            cls, host.shape, strides=host.stride(), storage_offset=host.storage_offset(), dtype=host.dtype, device=EMU
        )
        tensor.host = host
        return tensor

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _compute(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"{self.host!r} on {EMU}"

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError(f"can't convert {EMU} device type tensor to numpy. Use Tensor.cpu() to copy it first.")

    __array__ = __dlpack__ = __dlpack_device__ = numpy  # type: ignore[assignment]

    def pin_memory(self, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("only dense CPU tensors can be pinned")

    def data_ptr(self) -> int:
        _refuse_readers()
        return self.host.data_ptr()

    def untyped_storage(self) -> Any:
        return _Storage(self.host)

    def tolist(self) -> Any:
        return self.host.tolist()

    def __reduce_ex__(self, protocol: Any) -> Any:
        return self.host.detach().__reduce_ex__(protocol)  # loaded with map_location=cpu, as everything here loads

    def __deepcopy__(self, memo: dict[int, Any]) -> DeviceTensor:
        if id(self) not in memo:
            copied = DeviceTensor(self.host.detach().clone()).requires_grad_(self.requires_grad)
            vars(copied).update(copy.deepcopy({k: v for k, v in vars(self).items() if k != "host"}, memo))
            memo[id(self)] = copied
        return memo[id(self)]

    @property
    def data(self) -> Tensor:  # type: ignore[override]
        return self.detach()

    @data.setter
    def data(self, value: Tensor) -> None:
        if not isinstance(value, DeviceTensor) or value.shape != self.shape or value.dtype != self.dtype:
            raise RuntimeError(f"{self.shape} on {EMU} cannot become {value.shape}, {value.dtype} on {value.device}")
        self.host = value.host


class _Storage:
    """The identity of a tensor's memory, for code that looks for shared memory. Nothing can be read."""

    def __init__(self, host: Tensor) -> None:
        self._address, self._size = host.untyped_storage().data_ptr(), host.untyped_storage().nbytes()
        self.device = EMU

    def data_ptr(self) -> int:
        _refuse_readers()
        return self._address

    def nbytes(self) -> int:
        return self._size

    size = nbytes


def _refuse_readers() -> None:
    caller = sys._getframe(2).f_globals.get("__name__", "")
    if caller.split(".")[0] not in IDENTIFIERS:
        raise RuntimeError(f"{caller} asks for the address of a tensor on {EMU}: reading there is a segmentation fault")


def _compute(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """`func` on the device: computed on the CPU, after the device's own checks."""
    DEVICE.operations += 1
    tensors = list(_tensors((args, tuple(kwargs.values()))))
    on_device = [x for x in tensors if isinstance(x, DeviceTensor)]
    if len(on_device) < len(tensors):
        _refuse_mixed(func, args, tensors)
    place = kwargs.get("device")
    goes_there = bool(on_device) if place is None else torch.device(place).type == EMU.type
    if kwargs.get("pin_memory") and goes_there:
        raise RuntimeError("only dense CPU tensors can be pinned")
    if func.overloadpacket.__name__ in PRODUCTS and not tensors[0].dtype.is_floating_point:
        raise RuntimeError(f'"{func.overloadpacket.__name__}_cuda" not implemented for {tensors[0].dtype}')
    if func is aten._copy_from.default:
        return aten.copy_.default(args[1], args[0])
    if func is aten._fused_sdp_choice.default:
        return 0  # attention as plain products: the CPU's own kernels are no GPU's
    positional = _changed(args, _host)
    named = {name: _changed(value, _host) for name, value in kwargs.items()}
    if goes_there and place is not None:
        named["device"] = torch.device("cpu")
    if torch.Tag.nondeterministic_seeded in func.tags:
        return _wrapped(func, args, kwargs, _drawn(func, positional, named))
    result = func(*positional, **named)
    if not goes_there:
        return args[0] if func is aten.copy_.default else result
    return _wrapped(func, args, kwargs, result)


def _wrapped(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> Any:
    """Results as tensors of the device; what an operation has written into is itself its result."""
    if func._schema.is_mutable:
        written = [x for x in (kwargs.get("out"), args[0]) if isinstance(x, Tensor)]
        if isinstance(result, Tensor) and written:
            if written[0].shape != result.shape:
                raise NotImplementedError(f"{func} changes the shape of a tensor that is there")
            return written[0]
    return _changed(result, lambda x: DeviceTensor(x) if isinstance(x, Tensor) else x)


def _tensors(x: Any) -> Iterator[Tensor]:
    if isinstance(x, Tensor):
        yield x
    elif isinstance(x, tuple | list):
        for item in x:
            yield from _tensors(item)


def _changed(x: Any, change: Callable[[Any], Any]) -> Any:
    """`x` with every item of its lists and tuples changed."""
    return type(x)([_changed(item, change) for item in x]) if isinstance(x, tuple | list) else change(x)


def _host(x: Any) -> Any:
    return x.host if isinstance(x, DeviceTensor) else x


def _drawn(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Random numbers of the device's stream."""
    if any(argument.name == "generator" for argument in func._schema.arguments):
        generator = kwargs.get("generator") or next((x for x in args if isinstance(x, torch.Generator)), None)
        if generator is not None:
            raise RuntimeError(f"Expected a '{EMU.type}' device type for generator but found '{generator.device.type}'")
        return func(*args, **kwargs, generator=DEVICE.generator)
    with torch.random.fork_rng(devices=[]):  # nothing but the stream can be handed over
        torch.default_generator.set_state(DEVICE.generator.get_state())
        result = func(*args, **kwargs)
        DEVICE.generator.set_state(torch.default_generator.get_state())
    return result


def _refuse_mixed(func: Any, args: Any, tensors: list[Tensor]) -> None:
    """RuntimeError where CUDA raises it: some of the tensors are on the device and some are not."""
    if func in (aten.copy_.default, aten._to_copy.default, aten._copy_from.default, aten._foreach_copy_.default):
        return
    name, suspects = func.overloadpacket.__name__, tensors
    if name in ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index"):
        into_device = isinstance(args[0], DeviceTensor)
        if not into_device and any(isinstance(x, DeviceTensor) for x in args[1]):
            raise RuntimeError(f"indices should be either on cpu or on the same device as the indexed tensor ({func})")
        suspects = [args[0], *(x for x in args[2:3] if x.dim())]  # indices may be on the CPU, and so may one number
    elif torch.Tag.pointwise in func.tags or name in ("masked_fill", "masked_fill_", "fill_", "where"):
        suspects = [x for x in tensors if x.dim() or isinstance(x, DeviceTensor)]
    places = {str(x.device) for x in suspects}
    if len(places) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, "
            f"{' and '.join(sorted(places))}! ({func})"
        )


def _autocast_as(op: Any, lower: bool) -> Callable[..., Any]:
    """`op` under autocast: its floating arguments in the lower precision, or those of lower precision in float32."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.AutocastPrivateUse1)

    def change(x: Any) -> Any:
        if not isinstance(x, DeviceTensor) or not x.is_floating_point() or x.dtype == torch.float64:
            return x
        return x.to(torch.get_autocast_dtype(EMU.type)) if lower else x.float() if x.dtype in CASTS else x

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(keys):
            return op(*_changed(args, change), **{name: _changed(value, change) for name, value in kwargs.items()})

    return kernel


def _overloads(name: str) -> Iterator[Any]:
    packet = getattr(aten, name)
    yield from (getattr(packet, overload) for overload in packet.overloads())


def _register() -> list[torch.library.Library]:
    """Operations that make tensors on the device, and autocast's lists; the rest reach DeviceTensor by themselves."""
    kernels, every = torch.library.Library("aten", "IMPL"), torch.library.Library("_", "IMPL")
    every.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    every.fallback(lambda op, *args, **kwargs: _compute(op, args, kwargs), "PrivateUse1")
    for names, lower in ((LOWER_PRECISION, True), (FLOAT32, False)):
        for op in (op for name in names for op in _overloads(name)):
            if not op._schema.is_mutable and "out" not in op._overloadname:
                kernels.impl(op, _autocast_as(op, lower), "AutocastPrivateUse1")
    for qualified in torch._C._dispatch_get_all_op_names():
        space, _, name = qualified.partition("::")
        if space != "aten":
            continue
        op = getattr(getattr(aten, name.split(".")[0]), name.partition(".")[2] or "default")
        arguments = {argument.name: str(argument.type) for argument in op._schema.arguments}
        makes = "device" in arguments and not any("Tensor" in kind for kind in arguments.values())
        if makes or op in (aten._copy_from.default, aten.copy_.default):  # torch.tensor copies past the class
            kernels.impl(op, lambda *args, _op=op, **kwargs: _compute(_op, args, kwargs), "PrivateUse1")
    return [kernels, every]


DEVICE = _Device()
backend_registration._setup_privateuseone_for_python_backend("emu", backend_module=DEVICE)
EMU = torch.device("emu", 0)
_LIBRARIES = _register()  # they last as long as they are kept


@contextmanager
def installed() -> Iterator[torch.device]:
    """Inside, zero.runtime.prepare gives this device, as it gives a GPU where there is one, and modules can be moved to it."""
    prepare = runtime.prepare

    def prepared(*arguments: Any) -> torch.device:
        prepare(*arguments)
        return EMU

    before = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    runtime.prepare = prepared
    try:
        yield EMU
    finally:
        runtime.prepare = prepare
        torch.__future__.set_swap_module_params_on_conversion(before)
