// Runs the blocks of a launch one after the other, a block's threads as coroutines, and checks every access to memory.
//
// A worker (a coroutine with its stack) runs threads until one has to wait; that thread keeps the worker, and another one goes on
// with the threads that have not started. The compiler calls __asan_load/store before each access of a kernel (its
// -fsanitize=kernel-address); here they find accesses outside of the arrays, misaligned ones, and two threads that touch the same
// place, one of them writing, without a barrier between them.
#include <setjmp.h>
#include <stddef.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <algorithm>
#include <vector>

struct uint3 { unsigned x, y, z; };

namespace {

const int THREADS = 1024, WARP = 32, STACK = 128 << 10, VALUE = 64, SNAPSHOTS = 64, SHARED = 256 << 10;
enum State { NEW, RUNNING, BARRIER, EXCHANGE, DONE };
enum { MANY = 0x7fff, OF_A_WARP = 0x4000 };

struct Access { uint32_t wrote, read; uint16_t writer, reader; };  // clocks and threads of the last accesses of a place

struct Range {
    char *begin, *end;
    int step;  // bytes of a place
    const char* name;
    Access* places;
};

struct Copy { char* to; const char* from; int size, group; };

struct Thread {
    State state;
    unsigned mask;
    uint32_t barrier, warp;  // clocks of the last meetings this thread took part in
    int size, snapshot, worker, group;
    uint3 index;
    alignas(16) char value[VALUE];
    std::vector<Copy> copies;
};

struct Worker { jmp_buf at; ucontext_t start; bool begun; };

Thread threads[THREADS];
Worker workers[THREADS];
std::vector<int> idle;
char* stacks;
ucontext_t home_context;
jmp_buf home;
std::vector<Range> ranges;  // arrays of the launch
Range shared_memory[2];  // static, dynamic
char* dynamic;
char *module_begin, *module_end;
struct Variable { char *begin, *end; const char* name; size_t whole; };
std::vector<Variable> variables, shared_variables;  // static ones of all modules; those in shared memory of this one

void (*body)(void**);
void** arguments;
uint3 block_index, block_size, grid_size;
int count, started, current, current_worker;
uint32_t tick, block_tick;
bool fenced, failed;
char message[1024];
alignas(16) char snapshots[THREADS / WARP][SNAPSHOTS][WARP * VALUE];
int next_snapshot[THREADS / WARP];

[[noreturn]] void leave() { _longjmp(home, 1); }

void report(const char* format, ...) {  // the current thread has done something wrong
    va_list list;
    va_start(list, format);
    const int n = vsnprintf(message, sizeof message, format, list);
    va_end(list);
    const uint3 t = threads[current].index;
    snprintf(message + n, sizeof message - n, " (block %u, %u, %u, thread %u, %u, %u)", block_index.x, block_index.y,
             block_index.z, t.x, t.y, t.z);
    failed = true;
}

#define fail(...) (report(__VA_ARGS__), leave())  // out of a kernel, whose stack is then lost

// ---- threads

void work() {
    for (;;) {
        while (started < count) {
            current = started++;
            Thread& thread = threads[current];
            thread.state = RUNNING;
            thread.worker = current_worker;
            body(arguments);
            if (!thread.copies.empty()) fail("a copy_async is never waited for");
            thread.state = DONE;
        }
        if (!_setjmp(workers[current_worker].at)) {
            idle.push_back(current_worker);
            leave();
        }
    }
}

void resume(int worker) {  // returns when it waits or has nothing left
    if (_setjmp(home)) return;
    current_worker = worker;
    Worker& w = workers[worker];
    if (w.begun) _longjmp(w.at, 1);
    w.begun = true;
    getcontext(&w.start);
    w.start.uc_stack.ss_sp = stacks + (size_t)STACK * worker;
    w.start.uc_stack.ss_size = STACK;
    w.start.uc_link = nullptr;
    makecontext(&w.start, work, 0);
    setcontext(&w.start);
}

void wait(State state) {
    threads[current].state = state;
    if (!_setjmp(workers[current_worker].at)) leave();
}

bool release_barrier() {
    bool any = false;
    for (int i = 0; i < count; i++) {
        if (threads[i].state == BARRIER) any = true;
        else if (threads[i].state != DONE) return false;
    }
    if (!any) return false;
    tick++;
    for (int i = 0; i < count; i++)
        if (threads[i].state == BARRIER) threads[i].state = RUNNING, threads[i].barrier = threads[i].warp = tick;
    return true;
}

bool release_exchange(int warp) {
    bool any = false;
    for (int i = warp * WARP; i < std::min(count, (warp + 1) * WARP); i++) {
        Thread& thread = threads[i];
        if (thread.state != EXCHANGE) continue;
        bool all = true;
        for (int lane = 0; lane < WARP && all; lane++) {
            if (!(thread.mask >> lane & 1)) continue;
            const int other = warp * WARP + lane;
            if (other < count && threads[other].state == DONE) {
                current = i;
                report("lane %d has ended, but the mask of a warp's exchange names it", lane);
                return false;
            }
            all = other >= count || (threads[other].state == EXCHANGE && threads[other].mask == thread.mask);
        }
        if (!all) continue;
        any = true;
        tick++;
        const int at = next_snapshot[warp] = (next_snapshot[warp] + 1) % SNAPSHOTS;
        const unsigned mask = thread.mask;
        memset(snapshots[warp][at], 0xff, WARP * thread.size);
        for (int lane = 0; lane < WARP; lane++) {
            const int other = warp * WARP + lane;
            if (!(mask >> lane & 1) || other >= count) continue;
            Thread& t = threads[other];
            t.state = RUNNING, t.snapshot = at, t.warp = tick;
            memcpy(snapshots[warp][at] + lane * t.size, t.value, t.size);
        }
    }
    return any;
}

void run_block() {
    started = 0;
    while (started < count) {
        int worker = (int)idle.back();
        idle.pop_back();
        resume(worker);
        if (failed) return;
    }
    for (;;) {
        bool any = false, done = true;
        for (int warp = 0; warp * WARP < count; warp++) {
            while (release_exchange(warp)) {
                any = true;
                for (int i = warp * WARP; i < std::min(count, (warp + 1) * WARP); i++)
                    if (threads[i].state == RUNNING) {
                        current = i;
                        resume(threads[i].worker);
                        if (failed) return;
                    }
            }
        }
        if (failed) return;
        if (!any && release_barrier()) {
            any = true;
            for (int i = 0; i < count; i++)
                if (threads[i].state == RUNNING) {
                    current = i;
                    resume(threads[i].worker);
                    if (failed) return;
                }
        }
        for (int i = 0; i < count && done; i++) done = threads[i].state == DONE;
        if (done) return;
        if (!any) {
            for (current = 0; threads[current].state == DONE;) current++;
            const bool barrier = threads[current].state == BARRIER;
            report("threads wait for each other: this one %s", barrier ? "at __syncthreads" : "in its warp");
            return;
        }
    }
}

// ---- memory

bool before(uint32_t clock, int other, bool warp_only) {  // whether that access came before this thread's last meeting with `other`
    const Thread& self = threads[current];
    if (clock < self.barrier || clock < block_tick) return true;
    return warp_only && other / WARP == current / WARP && clock < self.warp;
}

void note(Range& range, char* place, int size, bool writes) {
    if (!range.places || size < range.step) return;
    const size_t last = (place + size - 1 - range.begin) / range.step;
    const bool of_block = &range == &shared_memory[0] || &range == &shared_memory[1];
    for (size_t i = (place - range.begin) / range.step; i <= last; i++) {
        Access& a = range.places[i];
        if (a.wrote && !(of_block && a.wrote < block_tick)) {
            const bool foreign = a.wrote < block_tick;  // another block's
            if (foreign ? !fenced : (a.writer != current && !before(a.wrote, a.writer, true)))
                fail("%s: thread %d%s wrote element %zu that this one %s, with no barrier between", range.name, a.writer,
                     foreign ? " of another block" : "", i, writes ? "writes" : "reads");
        }
        if (writes && a.read && !(of_block && a.read < block_tick)) {
            const bool foreign = a.read < block_tick;
            bool fine = foreign ? fenced : a.reader == current;
            if (!foreign && !fine) {
                if (a.reader == MANY) fine = before(a.read, 0, false);
                else if (a.reader & OF_A_WARP) fine = before(a.read, (a.reader & ~OF_A_WARP) * WARP, true);
                else fine = before(a.read, a.reader, true);
            }
            if (!fine) fail("%s: another thread read element %zu that this one writes, with no barrier between", range.name, i);
        }
        if (writes) {
            a.wrote = tick, a.writer = (uint16_t)current;
        } else {
            const bool fresh = !a.read || a.read < std::max(block_tick, threads[current].barrier) || a.reader == current;
            if (fresh) a.reader = (uint16_t)current;
            else if (a.reader != MANY) {
                const int warp = a.reader & OF_A_WARP ? a.reader & ~OF_A_WARP : a.reader / WARP;
                a.reader = warp == current / WARP ? (uint16_t)(OF_A_WARP | warp) : (uint16_t)MANY;
            }
            a.read = tick;
        }
    }
}

void check(const void* address, int size, bool writes, bool notes) {
    char* place = (char*)address;
    if (place >= stacks && place < stacks + (size_t)STACK * THREADS) return;
    if (place >= (char*)snapshots && place < (char*)snapshots + sizeof snapshots) return;
    if ((size == 2 || size == 4 || size == 8 || size == 16) && (uintptr_t)place % size)
        fail("%d bytes at an address that is no multiple of %d", size, size);
    static size_t last;  // arrays are read in runs
    if (last < ranges.size() && place >= ranges[last].begin && place + size <= ranges[last].end) {
        if (notes) note(ranges[last], place, size, writes);
        return;
    }
    for (size_t i = 0; i < ranges.size(); i++)
        if (place >= ranges[i].begin && place + size <= ranges[i].end) {
            last = i;
            if (notes) note(ranges[i], place, size, writes);
            return;
        }
    for (Range& range : shared_memory)
        if (place >= range.begin && place + size <= range.end) {
            if (&range == &shared_memory[0])
                for (const Variable& v : shared_variables)
                    if (place >= v.begin && place < v.begin + v.whole) {
                        if (place + size > v.end)
                            fail("%s of %d bytes, %td bytes past the end of shared %.*s", writes ? "a store" : "a load", size,
                                 place + size - v.end, (int)(strlen(v.name) - strlen("_in_shared")), v.name);
                        break;
                    }
            if (notes) note(range, place, size, writes);
            return;
        }
    if (place >= module_begin && place < module_end && !writes) return;  // constants
    const Range* nearest = nullptr;
    ptrdiff_t distance = 0;
    auto consider = [&](const Range& range) {
        const ptrdiff_t d = place < range.begin ? place - range.begin : place + size - range.end;
        if (range.begin != range.end && (!nearest || labs(d) < labs(distance))) nearest = &range, distance = d;
    };
    for (const Range& range : ranges) consider(range);
    for (const Range& range : shared_memory) consider(range);
    if (nearest && labs(distance) < (1 << 20))
        fail("%s of %d bytes, %td bytes %s %s", writes ? "a store" : "a load", size, labs(distance),
             distance < 0 ? "before the beginning of" : "past the end of", nearest->name);
    fail("%s of %d bytes at %p, which is in no array", writes ? "a store" : "a load", size, place);
}

}  // namespace

extern "C" {

uint3 emulator_thread() { return threads[current].index; }
uint3 emulator_block() { return block_index; }
uint3 emulator_block_size() { return block_size; }
uint3 emulator_grid_size() { return grid_size; }
void* emulator_dynamic_shared() { return dynamic; }
int emulator_lane() { return current % WARP; }
void emulator_barrier() { wait(BARRIER); }
void emulator_fence() { fenced = true; }
void emulator_check(const void* place, int size, int writes) { check(place, size, writes, false); }
void emulator_trap(const char* text) { fail("%s", text); }

const void* emulator_exchange(unsigned mask, const void* value, int size) {
    Thread& self = threads[current];
    const int lane = current % WARP, warp = current / WARP;
    if (!(mask >> lane & 1)) fail("a warp's exchange with a mask, %#x, that does not name this lane, %d", mask, lane);
    if (size > VALUE) fail("an exchange of %d bytes", size);
    memcpy(self.value, value, size);
    self.mask = mask, self.size = size;
    wait(EXCHANGE);
    return snapshots[warp][self.snapshot];  // stays until this warp has met SNAPSHOTS times more
}

void emulator_copy_async(void* to, const void* from, int size) {
    if ((uintptr_t)to % size || (uintptr_t)from % size) fail("copy_async of %d bytes at an address that is no multiple", size);
    check(to, size, true, true);
    if (from) check(from, size, false, true);
    memset(to, 0xff, size);
    threads[current].copies.push_back({(char*)to, (const char*)from, size, threads[current].group});
}

void emulator_copy_async_commit() { threads[current].group++; }

void emulator_copy_async_wait(int groups) {
    Thread& self = threads[current];
    size_t kept = 0;
    for (Copy& copy : self.copies) {
        if (copy.group >= self.group - groups) {
            self.copies[kept++] = copy;
            continue;
        }
        check(copy.to, copy.size, true, true);
        if (copy.from) memcpy(copy.to, copy.from, copy.size);
        else memset(copy.to, 0, copy.size);
    }
    self.copies.resize(kept);
}

#define ACCESS(n)                                                                          \
    void __asan_load##n##_noabort(const void* place) { check(place, n, false, true); }     \
    void __asan_store##n##_noabort(void* place) { check(place, n, true, true); }
ACCESS(1) ACCESS(2) ACCESS(4) ACCESS(8) ACCESS(16)
void __asan_loadN_noabort(const void* place, size_t size) { check(place, (int)size, false, true); }
void __asan_storeN_noabort(void* place, size_t size) { check(place, (int)size, true, true); }
void __asan_handle_no_return() {}

struct Mismatch { const char* file; unsigned line, column; const void* type; unsigned char log_alignment, kind; };
void __ubsan_handle_type_mismatch_v1(Mismatch* at, void* place) {
    const unsigned size = 1u << at->log_alignment;
    if (!((uintptr_t)place % size)) return;
    fail("line %u: an address that is no multiple of %u", at->line, size);
}

struct Global { char* begin; size_t size, whole; const char *name, *module; size_t dynamic; void* location; size_t indicator; };
void __asan_register_globals(Global* globals, size_t n) {
    for (size_t i = 0; i < n; i++) variables.push_back({globals[i].begin, globals[i].begin + globals[i].size, globals[i].name, globals[i].whole});
}
void __asan_unregister_globals(Global*, size_t) {}

struct Array { char* begin; long long size; int step; const char* name; };
struct Module { char *begin, *shared_begin, *end; };

// Returns null, or what went wrong. Arrays may overlap (an argument given twice): the first one counts.
const char* emulator_launch(void (*kernel)(void**), void** args, const unsigned* grid, const unsigned* block, int shared,
                            const Array* arrays, int n_arrays, const Module* module) {
    if (!stacks) {
        stacks = (char*)mmap(nullptr, (size_t)STACK * THREADS, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (stacks == MAP_FAILED) abort();
        for (int i = THREADS - 1; i >= 0; i--) idle.push_back(i);
        dynamic = (char*)aligned_alloc(1024, SHARED);
    }
    body = kernel, arguments = args;
    grid_size = {grid[0], grid[1], grid[2]}, block_size = {block[0], block[1], block[2]};
    count = (int)(block[0] * block[1] * block[2]);
    module_begin = module->begin, module_end = module->end;
    failed = fenced = false;
    tick = 1;
    ranges.clear();
    for (int i = 0; i < n_arrays; i++) {
        const Array& a = arrays[i];
        Access* places = a.size ? (Access*)calloc(a.size / a.step, sizeof(Access)) : nullptr;
        ranges.push_back({a.begin, a.begin + a.size, a.step, a.name, places});
    }
    const size_t fixed = module->end - module->shared_begin;
    shared_memory[0] = {module->shared_begin, module->end, 4, "shared memory", (Access*)calloc(fixed / 4 + 1, sizeof(Access))};
    shared_memory[1] = {dynamic, dynamic + shared, 4, "dynamic shared memory", (Access*)calloc(shared / 4 + 1, sizeof(Access))};
    shared_variables.clear();
    for (const Variable& v : variables)
        if (v.begin >= module->shared_begin && v.begin < module->end) shared_variables.push_back(v);
    for (unsigned z = 0; z < grid[2] && !failed; z++)
        for (unsigned y = 0; y < grid[1] && !failed; y++)
            for (unsigned x = 0; x < grid[0] && !failed; x++) {
                block_index = {x, y, z};
                block_tick = ++tick;
                memset(module->shared_begin, 0xff, fixed);
                memset(dynamic, 0xff, shared);
                for (int i = 0; i < count; i++) {
                    Thread& t = threads[i];
                    t.state = NEW, t.barrier = t.warp = block_tick, t.group = 0;
                    t.index = {i % block[0], i / block[0] % block[1], i / (block[0] * block[1])};
                    t.copies.clear();
                }
                run_block();
            }
    if (failed) {  // its stacks are in the middle of something
        idle.clear();
        for (int i = THREADS - 1; i >= 0; i--) workers[i].begun = false, idle.push_back(i);
    }
    for (Range& range : ranges) free(range.places);
    for (Range& range : shared_memory) free(range.places);
    return failed ? message : nullptr;
}
}
