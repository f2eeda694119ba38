"""The emulated GPU finds the mistakes that it is there for, and computes like a GPU."""

from __future__ import annotations

import os

import numpy as np
import pytest

if os.environ.get("ALLGRAD_TEST_GPU") == "1":
    pytest.skip("the stand-in itself is tested", allow_module_level=True)

from support.emulated_gpu import device, emulated_gpu
from support.emulated_gpu.errors import (
    CUDADriverError,
    CUDARuntimeError,
    MemoryFault,
    StreamHazard,
)
from support.emulated_gpu.state import settings, thread

SOURCE = r"""
extern "C" __global__ void index(int* y) {
  const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const int thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  y[block * blockDim.x * blockDim.y * blockDim.z + thread] = block * 1000 + thread;
}
extern "C" __global__ void __launch_bounds__(256) total(const float* x, float* y, int n) {
  __shared__ float parts[32];
  float v = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) v += x[i];
  for (int step = 16; step; step /= 2) v += __shfl_down_sync(0xFFFFFFFFu, v, step);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = v;
  __syncthreads();
  if (threadIdx.x == 0) {
    float sum = 0;
    for (int i = 0; i < (int)blockDim.x / 32; ++i) sum += parts[i];
    *y = sum;
  }
}
template <typename T> __global__ void reversed(T* y, T by) {
  extern __shared__ T all[];
  all[threadIdx.x] = y[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = all[blockDim.x - 1 - threadIdx.x] * by;
}
extern "C" __global__ void votes(unsigned* y) {
  const unsigned all = 0xFFFFFFFFu, odd = __ballot_sync(all, threadIdx.x % 2);
  const int any = __any_sync(all, threadIdx.x == 5), every = __all_sync(all, threadIdx.x < 31);
  const int here = __syncthreads_count(threadIdx.x < 7);
  if (threadIdx.x == 40) { y[0] = odd; y[1] = any; y[2] = every; y[3] = here; }
}
extern "C" __global__ void histogram(const int* x, int* bins, float* sum) {
  atomicAdd(&bins[x[threadIdx.x]], 1);
  atomicAdd(sum, 0.5f);
}
extern "C" __global__ void halfway(float* y) {
  if (threadIdx.x < 40) __syncthreads();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void lonely(float* y) {
  if (threadIdx.x < 8) return;
  y[threadIdx.x] = __shfl_xor_sync(0xFFFFFFFFu, 1.0f, 8);
}
extern "C" __global__ void divergent(float* y) {
  if (threadIdx.x < 16) __syncwarp(0xFFFFFFFFu); else __syncthreads();
  y[threadIdx.x] = 1;
}
extern "C" __global__ void wide(float* y, int at) { *(float4*)(y + at) = make_float4(1, 2, 3, 4); }
extern "C" __global__ void put(float* y, long long at, float value) { y[at] = value; }
extern "C" __global__ void add_scaled(float* y, const float* x, float by) {
  y[threadIdx.x] += by * x[threadIdx.x];
}
"""


@pytest.fixture
def cupy():
    before = thread.device, dict(thread.streams)
    with emulated_gpu(devices=2) as module:
        thread.device, thread.streams = 0, {}
        yield module
        thread.device, thread.streams = before


@pytest.fixture
def kernel(cupy):
    module = cupy.RawModule(code=SOURCE, name_expressions=("reversed<double>",))
    return module.get_function


@pytest.fixture
def streams(cupy):
    cupy.cuda.Device(0).synchronize()
    return [cupy.cuda.Stream(non_blocking=True) for _ in range(3)]


# -- kernels ---------------------------------------------------------------------------------------
def test_threads_know_where_they_are(cupy, kernel):
    y = cupy.zeros(2 * 3 * 2 * 24, np.int32)
    kernel("index")((2, 3, 2), (4, 3, 2), (y,))
    blocks, threads = np.divmod(np.arange(y.size), 24)
    np.testing.assert_array_equal(y.get(), blocks * 1000 + threads)


def test_barriers_and_shuffles(cupy, kernel):
    x, y = cupy.arange(1000, dtype=np.float32), cupy.empty(1, np.float32)
    kernel("total")((1,), (256,), (x, y, np.int32(1000)))
    assert y.item() == 499_500


def test_dynamic_shared_memory_and_templates(cupy, kernel):
    y = cupy.arange(64, dtype=np.float64)
    kernel("reversed<double>")((1,), (64,), (y, 0.5), shared_mem=64 * 8)
    np.testing.assert_array_equal(y.get(), np.arange(64)[::-1] / 2)


def test_votes(cupy, kernel):
    y = cupy.zeros(4, np.uint32)
    kernel("votes")((1,), (64,), (y,))
    assert y.tolist() == [0xAAAAAAAA, 0, 0, 7]


def test_atomics(cupy, kernel):
    x = np.random.default_rng(0).integers(0, 9, 500).astype(np.int32)
    bins, total = cupy.zeros(9, np.int32), cupy.zeros(1, np.float32)
    kernel("histogram")((1,), (500,), (cupy.asarray(x), bins, total))
    np.testing.assert_array_equal(bins.get(), np.bincount(x))
    assert total.item() == 250


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("halfway", r"__syncthreads\(\) was reached by 40 of 64 threads"),
        ("lonely", r"lane \d+ of a warp reads lane \d, which|has left the kernel"),
        ("divergent", "wait for lanes of their warp that will never come"),
    ],
)
def test_threads_that_wait_for_ever(cupy, kernel, name, said):
    with pytest.raises(CUDADriverError, match=said):
        kernel(name)((1,), (64,), (cupy.zeros(64, np.float32),))


def test_writes_outside_of_arrays(cupy, kernel):
    y = cupy.zeros(5, np.float32)
    kernel("put")((1,), (1,), (y, 4, np.float32(1)))
    for at, where in ((5, "0 behind"), (-1, "4 before"), (40, "140 behind")):
        with pytest.raises(MemoryFault, match=rf"put wrote outside of an array of 20 .*{where}"):
            kernel("put")((1,), (1,), (y, at, np.float32(1)))
    with pytest.raises(CUDADriverError, match="illegal memory access"):
        kernel("put")((1,), (1,), (y, 1 << 40, np.float32(1)))


def test_vectors_are_aligned(cupy, kernel):
    y = cupy.zeros(8, np.float32)
    kernel("wide")((1,), (1,), (y, np.int32(4)))
    assert y.tolist() == [0, 0, 0, 0, 1, 2, 3, 4]
    with pytest.raises(CUDADriverError, match="misaligned"):
        kernel("wide")((1,), (1,), (y, np.int32(1)))


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (lambda x, y: (x, y), "takes 3 arguments .x, y, n., not 2"),
        (lambda x, y: (x, y, 5), "passed as 8-byte integer"),
        (lambda x, y: (x, y, np.float32(5)), "argument 2 .n. is declared as integer of 4 bytes"),
        (lambda x, y: (x.get(), y, np.int32(5)), "a NumPy array was given"),
        (lambda x, y: (x, y.astype(np.float16), np.int32(5)), "a device array of float16"),
        (lambda x, y: (x.astype(np.int32), y, np.int32(5)), "a device array of int32"),
    ],
)
def test_arguments_are_checked(cupy, kernel, args, said):
    x, y = cupy.zeros(5, np.float32), cupy.zeros(1, np.float32)
    with pytest.raises(TypeError, match=said):
        kernel("total")((1,), (32,), args(x, y))


def test_sizes_are_checked(cupy, kernel):
    y = cupy.zeros(1, np.float32)
    for grid, block in (((0,), (1,)), ((1, 70_000), (1,)), ((1,), (1, 1, 65))):
        with pytest.raises(CUDADriverError, match="INVALID_VALUE"):
            kernel("put")(grid, block, (y, 0, np.float32(1)))
    with pytest.raises(CUDADriverError, match="launch bounds allow 256"):
        kernel("total")((1,), (512,), (y, y, np.int32(1)))
    with pytest.raises(CUDADriverError, match="max_dynamic_shared_size_bytes"):
        kernel("reversed<double>")((1,), (1,), (cupy.zeros(1), 1.0), shared_mem=50_000)


def test_sources_that_do_not_compile(cupy):
    with pytest.raises(Exception, match=r"kernels.cu:1:.*'wrong' was not declared") as caught:
        cupy.RawModule(code='extern "C" __global__ void f(int* y) { *y = wrong; }').compile()
    assert type(caught.value).__name__ == "CompileException"
    with pytest.raises(CUDADriverError, match="NOT_FOUND"):
        cupy.RawModule(code=SOURCE).get_function("nothing")


# -- memory ----------------------------------------------------------------------------------------
def test_fresh_memory_is_not_zero(cupy):
    assert np.isnan(cupy.empty(100, np.float32).get()).all()
    assert cupy.zeros(3).data.ptr % 256 == 0


def test_memory_is_used_again_per_stream(cupy, streams):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        with streams[0]:
            x = cupy.empty(100, np.float32)
            place = x.data.ptr
            assert (pool.used_bytes(), pool.total_bytes()) == (512, 512)
            del x
            assert (pool.used_bytes(), pool.free_bytes()) == (0, 512)
        with streams[1]:
            other = cupy.empty(100, np.float32)
        with streams[0]:
            again = cupy.empty(101, np.float32)
        assert again.data.ptr == place != other.data.ptr
        del again, other
        pool.free_all_blocks()
        assert pool.total_bytes() == 0


def test_views_keep_memory(cupy):
    pool = cupy.cuda.MemoryPool()
    with cupy.cuda.using_allocator(pool.malloc):
        view = cupy.arange(1000, dtype=np.float32).reshape(10, 100)[::2].T
    assert pool.used_bytes() == 4096
    assert view[3].tolist() == [3.0, 203.0, 403.0, 603.0, 803.0]


def test_addresses_of_libraries(cupy):
    x = cupy.arange(10, dtype=np.float32)
    found = device.at(x.data.ptr + 8, (4,), np.float32)
    assert found.tolist() == [2, 3, 4, 5]
    with pytest.raises(MemoryFault, match="end 8 bytes behind"):
        device.at(x.data.ptr + 8, (10,), np.float32, what="cublasSgemm")
    place = x.data.ptr
    del x
    with pytest.raises(MemoryFault, match="given back to the pool"):
        device.at(place, (4,), np.float32)
    with pytest.raises(MemoryFault, match="not in the GPU's memory"):
        device.launch("a library", lambda: None, [(4096, 4)], [])


def test_devices_do_not_mix(cupy):
    x = cupy.ones(4)
    cupy.cuda.Device(0).synchronize()
    with cupy.cuda.Device(1):
        with pytest.raises(ValueError, match="array device = 0 while current = 1"):
            x + 1
        y = cupy.array(x)
        assert int(y.device.id) == 1
        assert (y + 1).tolist() == [2] * 4
    with pytest.raises(CUDARuntimeError, match="invalid device ordinal"):
        cupy.cuda.Device(2).use()


def test_copies_between_devices_are_ordered_by_hand(cupy, streams):
    with streams[0]:
        x = cupy.arange(1, 6, dtype=np.float32)
        with cupy.cuda.Device(1), cupy.cuda.Stream(non_blocking=True) as other:
            with pytest.raises(StreamHazard, match="a copy from another device"):
                cupy.array(x)
            y = cupy.empty(5, np.float32)
            other.wait_event(streams[0].record())
            y.data.copy_from_device_async(x.data, x.nbytes, other)
            y.data.memset_async(0, 4)
            assert y.tolist() == [0, 2, 3, 4, 5]


def test_a_missing_barrier_shows_in_the_other_order(cupy, kernel, monkeypatch):
    source = """extern "C" __global__ void shifted(int* y) {
      __shared__ int all[8];
      all[threadIdx.x] = threadIdx.x;
      y[threadIdx.x] = threadIdx.x ? all[threadIdx.x - 1] : 7;
    }"""
    y, shifted = cupy.zeros(8, np.int32), cupy.RawModule(code=source).get_function("shifted")
    shifted((1,), (8,), (y,))
    assert y.tolist() == [7, 0, 1, 2, 3, 4, 5, 6]
    monkeypatch.setattr(settings, "backwards", True)
    other = cupy.RawModule(code=source + "// again").get_function("shifted")
    other((1,), (8,), (y,))
    assert y.tolist() != [7, 0, 1, 2, 3, 4, 5, 6]
    x, total = cupy.arange(100, dtype=np.float32), cupy.zeros(1, np.float32)
    kernel("total")((1,), (64,), (x, total, np.int32(100)))
    assert total.item() == 4950


# -- order of streams ------------------------------------------------------------------------------
def test_reading_what_another_stream_writes(cupy, streams):
    with streams[0]:
        x = cupy.ones(10) + 1
    with streams[1], pytest.raises(StreamHazard, match=r"multiply on .* reads 80 bytes .*cupy.add"):
        x * 2
    event = streams[0].record()
    streams[1].wait_event(event)
    with streams[1]:
        y = x * 2
        assert y.tolist() == [4] * 10


def test_an_event_covers_what_came_before_it(cupy, streams):
    with streams[0]:
        x = cupy.ones(10)
        event = streams[0].record()
        x += 1
    streams[1].wait_event(event)
    with streams[1], pytest.raises(StreamHazard):
        x * 2


def test_order_passes_through_a_third_stream(cupy, streams):
    a, b, c = streams
    with a:
        x = cupy.ones(10)
    b.wait_event(a.record())
    c.wait_event(b.record())
    with c:
        assert (x + 1).tolist() == [2] * 10


def test_writing_what_another_stream_reads(cupy, streams):
    with streams[0]:
        x = cupy.ones(10)
    streams[1].wait_event(streams[0].record())
    with streams[1]:
        x + 1
    with streams[0], pytest.raises(StreamHazard, match=r"writes 80 bytes that cupy.add .* reads"):
        x.fill(0)
    with streams[0]:
        x + 1  # both may read


def test_parts_of_an_array_are_apart(cupy, streams):
    with streams[0]:
        flat = cupy.zeros(100)
    streams[1].wait_event(streams[0].record())
    with streams[0]:
        flat[:50] += 1
    with streams[1]:
        flat[50:] += 1
        with pytest.raises(StreamHazard):
            flat[49:] += 1


def test_the_host_puts_streams_in_order(cupy, streams):
    with streams[0]:
        x = cupy.ones(10)
    streams[0].synchronize()
    with streams[1]:
        assert (x + 1).tolist() == [2] * 10
        x += 1
    event = streams[1].record()
    assert event.done
    with streams[0]:
        x += 1


def test_memory_freed_too_early(cupy, streams):
    with streams[0]:
        x = cupy.ones(10)
        streams[1].wait_event(streams[0].record())
        with streams[1]:
            x + 1
        del x  # nobody has waited for the second stream
        with pytest.raises(StreamHazard, match=r"cupy.ones .*writes 80 bytes that cupy.add"):
            cupy.ones(10)


def test_kernels_take_part(cupy, kernel, streams):
    with streams[0]:
        x, y = cupy.ones(8, np.float32), cupy.ones(8, np.float32)
    streams[1].wait_event(streams[0].record())
    with streams[1]:
        kernel("add_scaled")((1,), (8,), (y, x, np.float32(2)))
    with streams[0]:
        x + 1  # is constant in the kernel
        with pytest.raises(StreamHazard, match="kernel add_scaled"):
            y + 1


def test_the_default_stream_waits_for_blocking_ones(cupy):
    blocking = cupy.cuda.Stream()
    with blocking:
        x = cupy.ones(3)
    assert (x + 1).tolist() == [2, 2, 2]
    y = x + 2
    with blocking:
        y + 1


# -- graphs ----------------------------------------------------------------------------------------
def test_a_graph_does_what_was_captured(cupy, kernel, streams):
    stream = streams[0]
    pool = cupy.cuda.MemoryPool()
    with stream, cupy.cuda.using_allocator(pool.malloc):
        x, y = cupy.ones(4, np.float32), cupy.zeros(4, np.float32)
        stream.begin_capture()
        z = (y + x) * 3
        view = z.reshape(2, 2)[1:]
        total = view.sum()
        kernel("add_scaled")((1,), (4,), (y, x, np.float32(0.5)))
        y[:2] = 7
        count = cupy.zeros(1)
        count += 1
        graph = stream.end_capture()
        assert y.tolist() == [0] * 4  # nothing has happened
        assert np.isnan(z.get()).all()
        graph.launch()
        graph.launch()
        assert y.tolist() == [7, 7, 1, 1]
        assert z.tolist() == [24, 24, 4.5, 4.5]
        assert (total.item(), count.item()) == (9, 1)
        del z, view, total, count  # the pool keeps their memory for the graph
        graph.launch()
        assert y.tolist() == [7, 7, 1.5, 1.5]


def test_what_cannot_be_captured(cupy, streams):
    stream = streams[0]
    with stream:
        x = cupy.ones((4, 4), np.float32)
        stream.begin_capture()
        for what in (
            x.get,
            x.sum().item,
            lambda: bool(x[0, 0]),
            lambda: x.set(np.ones((4, 4), np.float32)),
            lambda: cupy.asarray(np.ones(3)),
            lambda: x[x > 0],
            lambda: x[[0, 1]],
            lambda: np.nonzero(x),
        ):
            with pytest.raises(RuntimeError, match=r"not allowed|not while"):
                what()
        with pytest.raises(NotImplementedError, match="cuBLAS"):
            x @ x
        stream.end_capture()
        stream.begin_capture()
        with pytest.raises(CUDARuntimeError, match="StreamCaptureUnsupported"):
            stream.synchronize()
        with pytest.raises(CUDARuntimeError, match="CaptureInvalidated"):
            stream.end_capture()
    with pytest.raises(RuntimeError, match="legacy"):
        cupy.cuda.Stream.null.begin_capture()


def test_a_capture_forks_and_joins(cupy, streams):
    main, side, _ = streams
    with main:
        x = cupy.ones(4)
        main.begin_capture()
        side.wait_event(main.record())
        with side:
            y = x + 1
        with pytest.raises(StreamHazard):
            y * 2
        main.wait_event(side.record())
        z = y * 2
        graph = main.end_capture()
        graph.launch()
        assert z.tolist() == [4] * 4
        main.begin_capture()
        side.wait_event(main.record())
        with side:
            x + 1
        with pytest.raises(CUDARuntimeError, match="unjoined work"):
            main.end_capture()


def test_a_capture_is_apart_from_other_streams(cupy, streams):
    main, side, _ = streams
    with side:
        event = side.record()
    main.begin_capture()
    with pytest.raises(CUDARuntimeError, match="StreamCaptureIsolation"):
        main.wait_event(event)
    with pytest.raises(CUDARuntimeError, match="StreamCaptureUnmatched"):
        main.capture.end(side)
    with pytest.raises(CUDARuntimeError):
        main.end_capture()


def test_a_graph_whose_memory_is_somebody_elses(cupy, streams):
    with streams[0] as stream:
        x = cupy.ones(4)
        stream.begin_capture()
        x + 1  # from the default pool, which gives it to the next
        graph = stream.end_capture()
        other = cupy.empty(4)
        with pytest.raises(MemoryFault, match="given to somebody else"):
            graph.launch()
        del other


def test_a_graph_is_ordered_with_streams(cupy, streams):
    with streams[0] as stream:
        x = cupy.ones(4)
        stream.begin_capture()
        x += 1
        graph = stream.end_capture()
        graph.launch()
    with streams[1], pytest.raises(StreamHazard, match="a graph"):
        x + 1
