"""All gradients of the selective scan in one pass, as a Gluon kernel (the layer of Triton where layouts are explicit).

A warp walks backwards over a chunk of tokens with 32 channels (or 16, two lanes sharing a channel's states). The
states are recomputed: a forward sweep leaves one state per HISTORY tokens in a scratch buffer that belongs to the
resident program, so that it stays in the L2 cache; from there HISTORY tokens at a time are replayed with their
decayed states in registers, and the adjoint recurrence g_t = C_t dL/dy_t + decay_{t+1} g_{t+1} runs back over them.

Written in Gluon because the sums over channels need a transposition through shared memory that plain Triton cannot be
told to make: a plain version of this kernel took twice as long to run and a minute to compile.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from umamba.models.mamba.kernels.arithmetic import LOG2E, sigmoid
from umamba.models.mamba.kernels.chunks import LENGTHS, ROWS_OF_STATES
from umamba.models.mamba.kernels.device import (
    async_copy,
    copy_to_shared,
    fetch,
    join,
    load_or_zero,
    load_projection,
    one_minus_exp,
    shared_row,
    shared_step,
    step_size,
)


@gluon.jit(do_not_specialize=[*LENGTHS, *ROWS_OF_STATES, "items", "small_g", "small_b", "small_l"])
def gradients(
    grad, u, delta, A, B, C, skip, z, weight, bias, starts, adjoints, totals, scratch,
    grad_u, grad_delta, grad_z, grad_small, y_out, partial,
    L, D, items, chunks, grad_b, grad_l, u_b, u_l, delta_b, delta_l, B_b, B_l, C_b, C_l, z_b, z_l,
    gu_b, gu_l, gdelta_b, gdelta_l, gz_b, gz_l, small_g, small_b, small_l, y_b, y_l, scratch_p,
    T, N: gl.constexpr, N_PAD: gl.constexpr, RANK: gl.constexpr, RANK_PAD: gl.constexpr,
    SOFTPLUS: gl.constexpr, HISTORY: gl.constexpr, CHANNELS: gl.constexpr, WIDE_COPIES: gl.constexpr,
):  # fmt: skip
    """Gradients of the scan; names and shapes as in the forward file, `adjoints` is q behind each chunk like `starts`
    before it. With `totals`, the two are what chunks end with when started at zero; None if there is one chunk.

    Program (p, group) handles chunks p, p + P, ... for channel blocks group, group + G, ... in this order, so that it
    alone adds up its rows of `grad_small` (G, batch, L, RANK + 2 d_state: of step input, B, C) and writes partial (P,
    2 + d_state + RANK, channels): the sums over its tokens for skip, bias, A and weight. No atomics: the result is
    the same bit for bit in every run. `grad_u`, `grad_delta`, `grad_z`, `y_out` may be the tensors they belong to
    (`u`, `delta`, `z`, `grad`): a token is read before it is written.
    """
    PARTS: gl.constexpr = 32 // CHANNELS  # lanes that share a channel
    tile_l: gl.constexpr = gl.BlockedLayout([N_PAD // PARTS, 1], [PARTS, CHANNELS], [1, 1], [0, 1])
    channel_l: gl.constexpr = gl.SliceLayout(0, tile_l)
    state_l: gl.constexpr = gl.SliceLayout(1, tile_l)
    turned_l: gl.constexpr = gl.BlockedLayout(
        [1, CHANNELS // max(1, 32 // N_PAD)], [min(N_PAD, 32), max(1, 32 // N_PAD)], [1, 1], [1, 0]
    )
    SMALL: gl.constexpr = HISTORY * N_PAD
    flat_l: gl.constexpr = gl.BlockedLayout([1], [32], [1], [0])
    shared_l: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, order=[0])
    # what a round of HISTORY tokens reads, and the same for the next one, which travels meanwhile
    WIDE: gl.constexpr = HISTORY * CHANNELS
    wide_l: gl.constexpr = gl.BlockedLayout([WIDE // 32], [32], [1], [0])
    # in the maps' own dtype where it is copied as it is
    U_TYPE: gl.constexpr = u.dtype.element_ty if WIDE_COPIES else gl.float32
    GRAD_TYPE: gl.constexpr = grad.dtype.element_ty if WIDE_COPIES else gl.float32
    DELTA_TYPE: gl.constexpr = delta.dtype.element_ty if WIDE_COPIES and RANK == 0 else gl.float32
    two_u = gl.allocate_shared_memory(U_TYPE, [2, WIDE], shared_l)
    two_grad = gl.allocate_shared_memory(GRAD_TYPE, [2, WIDE], shared_l)
    two_delta = gl.allocate_shared_memory(DELTA_TYPE, [2, WIDE if RANK == 0 else HISTORY * RANK_PAD], shared_l)
    if z is not None:
        Z_TYPE: gl.constexpr = z.dtype.element_ty if WIDE_COPIES else gl.float32
        two_z = gl.allocate_shared_memory(Z_TYPE, [2, WIDE], shared_l)
    two_B = gl.allocate_shared_memory(gl.float32, [2, SMALL], shared_l)
    two_C = gl.allocate_shared_memory(gl.float32, [2, SMALL], shared_l)
    # what earlier blocks of channels left of the sums over channels
    two_before_B = gl.allocate_shared_memory(gl.float32, [2, SMALL], shared_l)
    two_before_C = gl.allocate_shared_memory(gl.float32, [2, SMALL], shared_l)
    two_before_dt = gl.allocate_shared_memory(gl.float32, [2, HISTORY * RANK_PAD], shared_l)
    # the state before a round, four numbers at a time, where no two lanes of a quarter warp meet in a bank
    FOURS: gl.constexpr = N_PAD // 4
    before_l: gl.constexpr = gl.SwizzledSharedLayout(4, max(1, 8 // FOURS), min(8, FOURS), order=[0, 1])
    state_before = gl.allocate_shared_memory(gl.float32, [N_PAD, CHANNELS], before_l)
    shared_gB = gl.allocate_shared_memory(gl.float32, [SMALL], shared_l)
    shared_gC = gl.allocate_shared_memory(gl.float32, [SMALL], shared_l)
    # sums over channels of (token, rank number, channel) products, each shared by PER_SUM lanes
    PER_SUM: gl.constexpr = 32 // (HISTORY * RANK_PAD)
    product_l: gl.constexpr = gl.BlockedLayout(
        [1, 1, CHANNELS // PER_SUM], [HISTORY, RANK_PAD, PER_SUM], [1, 1, 1], [2, 1, 0]
    )
    matrix_l: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, order=[1, 0])
    shared_gstep = gl.allocate_shared_memory(gl.float32, [HISTORY, CHANNELS], matrix_l)
    shared_w = gl.allocate_shared_memory(gl.float32, [RANK_PAD, CHANNELS], matrix_l)

    lane = gl.arange(0, CHANNELS, layout=channel_l)
    n = gl.arange(0, N_PAD, layout=state_l)
    flat = gl.arange(0, SMALL, layout=flat_l)
    flat_row, flat_n = flat // N_PAD, flat % N_PAD
    copied_l: gl.constexpr = gl.BlockedLayout([max(1, SMALL // 32)], [32], [1], [0])
    small_element = gl.arange(0, SMALL, layout=copied_l)
    small = (small_element // N_PAD, small_element % N_PAD, small_element % N_PAD < N)
    wide_element = gl.arange(0, WIDE, layout=wide_l)
    rank_element = gl.arange(0, HISTORY * RANK_PAD, layout=flat_l)
    rank_row, rank_r = rank_element // RANK_PAD, rank_element % RANK_PAD
    n_ok = n < N
    scratch += (gl.program_id(1) * gl.num_programs(0) + gl.program_id(0)).to(gl.int64) * scratch_p
    grad_small += gl.program_id(1).to(gl.int64) * small_g
    no_states = gl.full([N_PAD, CHANNELS], 0.0, gl.float32, tile_l)
    nothing = gl.full([CHANNELS], 0.0, gl.float32, channel_l)
    record = (n // 4 * (4 * CHANNELS) + n % 4)[:, None] + 4 * lane[None, :]  # four states a lane side by side
    for block in range(gl.program_id(1), gl.cdiv(D, CHANNELS), gl.num_programs(1)):
        channel = block * CHANNELS + lane
        mask = channel < D
        add = block >= gl.num_programs(1)
        before_small = (small[0], small[1], small[2] & add)
        before_rank = (rank_row, rank_r, (rank_r < RANK) & add)
        both = n_ok[:, None] & mask[None, :]
        wide_channel = block * CHANNELS + wide_element % CHANNELS
        wide = (wide_element // CHANNELS, wide_channel, wide_channel < D)
        narrow = wide if RANK == 0 else (rank_row, rank_r, rank_r < RANK)
        decay = gl.load(A + channel[None, :] * N + n[:, None], mask=both, other=0.0)
        w = load_projection(weight, channel, mask, RANK)
        sum_w = ()
        for r in gl.static_range(RANK):
            sum_w = sum_w + (nothing,)
            shared_w.slice(r, 1).store(w[r][None, :])
        for r in gl.static_range(RANK, RANK_PAD if RANK > 0 else 0):
            shared_w.slice(r, 1).store(gl.full([1, CHANNELS], 0.0, gl.float32, tile_l))
        offset = load_or_zero(bias, channel, mask)
        direct = load_or_zero(skip, channel, mask)
        sum_A, sum_skip, sum_bias = no_states, nothing, nothing
        for item in range(gl.program_id(0), items, gl.num_programs(0)):
            batch = gl.cast(item // chunks, gl.int64)
            chunk = item % chunks
            first = gl.cast(chunk, gl.int64) * T
            length = gl.minimum(L - first, T).to(gl.int32)
            u_c = u + batch * u_b + first * u_l
            delta_c = delta + batch * delta_b + first * delta_l
            B_c = B + batch * B_b + first * B_l
            C_c = C + batch * C_b + first * C_l
            grad_c = grad + batch * grad_b + first * grad_l
            small_c = grad_small + batch * small_b + first * small_l
            gu_c = grad_u + batch * gu_b + first * gu_l
            if z is not None:
                z_c = z + batch * z_b + first * z_l
                gz_c = grad_z + batch * gz_b + first * gz_l
            if y_out is not None:
                y_c = y_out + batch * y_b + first * y_l
            if RANK == 0:
                gdelta_c = grad_delta + batch * gdelta_b + first * gdelta_l
            slot = (batch * chunks + chunk) * N * D
            last = (length - 1) // HISTORY * HISTORY
            if starts is None:
                h, q = no_states, no_states
            elif totals is not None:
                zero = batch * chunks
                final = zero + chunks - 1
                h = join(starts, totals, decay * LOG2E, zero, chunk, 1, D, N, n, channel, mask)
                q = join(adjoints, totals, decay * LOG2E, final, chunks - 1 - chunk, -1, D, N, n, channel, mask)
            else:
                h = gl.load(starts + slot + n[:, None] * D + channel[None, :], mask=both, other=0.0)
                q = gl.load(adjoints + slot + n[:, None] * D + channel[None, :], mask=both, other=0.0)
            gl.store(scratch + record, h)
            fetch(two_u.index(0), u_c, u_l, 0, length, wide)
            fetch(two_delta.index(0), delta_c, delta_l, 0, length, narrow)
            fetch(two_B.index(0), B_c, B_l, 0, length, small)
            async_copy.commit_group()
            for begin in range(0, last, HISTORY):  # the last round leaves what the way back begins with
                now = begin // HISTORY % 2
                ahead = begin + HISTORY
                fetch(two_u.index(1 - now), u_c, u_l, ahead, length, wide)
                fetch(two_delta.index(1 - now), delta_c, delta_l, ahead, length, narrow)
                fetch(two_B.index(1 - now), B_c, B_l, ahead, length, small)
                async_copy.commit_group()
                async_copy.wait_group(1)
                for k in gl.static_range(HISTORY):
                    step = step_size(shared_step(two_delta.index(now), w, offset, k, RANK, RANK_PAD), mask, SOFTPLUS)
                    value = shared_row(two_u.index(now), k, lane)
                    b = shared_row(two_B.index(now), k, n)
                    h = gl.exp2((step * LOG2E)[None, :] * decay) * h + (step * value)[None, :] * b[:, None]
                gl.store(scratch + (begin // HISTORY + 1) * N_PAD * CHANNELS + record, h)

            now = last // HISTORY % 2
            state_before.store(h)
            fetch(two_before_B.index(now), small_c + RANK, small_l, last, length, before_small)
            fetch(two_before_C.index(now), small_c + RANK + N, small_l, last, length, before_small)
            if RANK > 0:
                fetch(two_before_dt.index(now), small_c, small_l, last, length, before_rank)
            fetch(two_C.index(now), C_c, C_l, last, length, small)
            fetch(two_grad.index(now), grad_c, grad_l, last, length, wide)
            if z is not None:
                fetch(two_z.index(now), z_c, z_l, last, length, wide)
            async_copy.commit_group()
            for back in range(0, last + 1, HISTORY):
                begin = last - back
                now = begin // HISTORY % 2
                ahead = gl.maximum(begin - HISTORY, 0)  # the last round fetches in vain
                async_copy.wait_group(0)
                h = state_before.load(tile_l)
                copy_to_shared(state_before, scratch + ahead // HISTORY * N_PAD * CHANNELS + record)
                fetch(two_before_B.index(1 - now), small_c + RANK, small_l, ahead, length, before_small)
                fetch(two_before_C.index(1 - now), small_c + RANK + N, small_l, ahead, length, before_small)
                if RANK > 0:
                    fetch(two_before_dt.index(1 - now), small_c, small_l, ahead, length, before_rank)
                fetch(two_u.index(1 - now), u_c, u_l, ahead, length, wide)
                fetch(two_delta.index(1 - now), delta_c, delta_l, ahead, length, narrow)
                fetch(two_grad.index(1 - now), grad_c, grad_l, ahead, length, wide)
                if z is not None:
                    fetch(two_z.index(1 - now), z_c, z_l, ahead, length, wide)
                fetch(two_B.index(1 - now), B_c, B_l, ahead, length, small)
                fetch(two_C.index(1 - now), C_c, C_l, ahead, length, small)
                async_copy.commit_group()
                turned = None
                steps = ()
                gys = ()
                decayed = ()
                for k in gl.static_range(HISTORY):
                    inside = mask & (begin + k < length)
                    step = step_size(shared_step(two_delta.index(now), w, offset, k, RANK, RANK_PAD), inside, SOFTPLUS)
                    value = shared_row(two_u.index(now), k, lane)
                    gy = shared_row(two_grad.index(now), k, lane)
                    b = shared_row(two_B.index(now), k, n)
                    c = shared_row(two_C.index(now), k, n)
                    e = gl.exp2((step * LOG2E)[None, :] * decay) * h
                    h = e + (step * value)[None, :] * b[:, None]
                    if (z is not None) or (y_out is not None):
                        y = direct * value + gl.sum(h * c[:, None], 0)
                    if z is not None:
                        gate = shared_row(two_z.index(now), k, lane)
                        sig = sigmoid(gate)
                        gz = gy * y * sig * (1.0 + gate * (1.0 - sig))
                        gl.store(gz_c + (begin + k) * gz_l + channel, gz, mask=inside)
                        y *= gate * sig
                        gy *= gate * sig
                    if y_out is not None:
                        gl.store(y_c + (begin + k) * y_l + channel, y, mask=inside)
                    steps = steps + (step,)
                    gys = gys + (gy,)
                    decayed = decayed + (e,)
                    # A lane itself adds up what a turned tile brings it, a token later: until then it is on its way
                    if turned is not None:
                        shared_gC.slice((k - 1) * N_PAD, N_PAD).store(gl.sum(turned, 1))
                    turned = gl.convert_layout(h * gy[None, :], turned_l)
                shared_gC.slice((HISTORY - 1) * N_PAD, N_PAD).store(gl.sum(turned, 1))

                turned = None
                for i in gl.static_range(HISTORY):
                    inside = mask & (begin + HISTORY - 1 - i < length)
                    step = steps[HISTORY - 1 - i]
                    value = shared_row(two_u.index(now), HISTORY - 1 - i, lane)
                    gy = gys[HISTORY - 1 - i]
                    b = shared_row(two_B.index(now), HISTORY - 1 - i, n)
                    c = shared_row(two_C.index(now), HISTORY - 1 - i, n)
                    g = c[:, None] * gy[None, :] + q
                    gx = gl.sum(g * b[:, None], 0)
                    p = g * decayed[HISTORY - 1 - i]  # dL/d(step A) = g_t decay_t h_{t-1}
                    gstep = gl.sum(p * decay, 0) + gx * value
                    sum_A += p * step[None, :]
                    q = gl.exp2((step * LOG2E)[None, :] * decay) * g
                    if turned is not None:
                        shared_gB.slice((HISTORY - i) * N_PAD, N_PAD).store(gl.sum(turned, 1))
                    turned = gl.convert_layout(g * (step * value)[None, :], turned_l)
                    if SOFTPLUS:
                        gstep *= one_minus_exp(step)
                    gstep = gl.where(inside, gstep, 0.0)
                    sum_bias += gstep
                    sum_skip += gy * value
                    row = begin + HISTORY - 1 - i
                    gl.store(gu_c + row * gu_l + channel, gx * step + direct * gy, mask=inside)
                    if RANK > 0:
                        shared_gstep.slice(HISTORY - 1 - i, 1).store(gstep[None, :])
                        new_w = ()
                        for r in gl.static_range(RANK):
                            dt = two_delta.index(now).slice((HISTORY - 1 - i) * RANK_PAD + r, 1).load(channel_l)
                            new_w = new_w + (sum_w[r] + gstep * dt,)
                        sum_w = new_w
                    else:
                        gl.store(gdelta_c + row * gdelta_l + channel, gstep, mask=inside)
                shared_gB.slice(0, N_PAD).store(gl.sum(turned, 1))
                small_row = small_c + (begin + flat_row) * small_l + RANK + flat_n
                small_ok = (flat_n < N) & (begin + flat_row < length)
                gl.store(small_row, two_before_B.index(now).load(flat_l) + shared_gB.load(flat_l), mask=small_ok)
                gl.store(small_row + N, two_before_C.index(now).load(flat_l) + shared_gC.load(flat_l), mask=small_ok)
                if RANK > 0:
                    gstep_rows = shared_gstep.load(gl.SliceLayout(1, product_l))
                    w_rows = shared_w.load(gl.SliceLayout(0, product_l))
                    dt_sum = gl.reshape(gl.sum(gstep_rows[:, None, :] * w_rows[None, :, :], 2), [HISTORY * RANK_PAD])
                    dt_sum = gl.convert_layout(dt_sum, flat_l) + two_before_dt.index(now).load(flat_l)
                    rank_ok = (rank_r < RANK) & (begin + rank_row < length)
                    gl.store(small_c + (begin + rank_row) * small_l + rank_r, dt_sum, mask=rank_ok)
            async_copy.wait_group(0)
        part = partial + gl.program_id(0).to(gl.int64) * (2 + N + RANK) * D
        gl.store(part + channel, sum_skip, mask=mask)
        gl.store(part + D + channel, sum_bias, mask=mask)
        gl.store(part + 2 * D + n[:, None] * D + channel[None, :], sum_A, mask=both)
        for r in gl.static_range(RANK):
            gl.store(part + (2 + N + r) * D + channel, sum_w[r], mask=mask)
