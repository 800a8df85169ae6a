// Graphs made node by node: every kind of node, edges, clones, graphs in graphs, and executable graphs that
// are changed.
//
// shows: cuGraphAddEmptyNode, cuGraphAddKernelNode, cuGraphAddKernelNode_v2, cuGraphAddMemcpyNode,
// cuGraphAddMemsetNode, cuGraphAddHostNode, cuGraphAddChildGraphNode, cuGraphAddEventRecordNode,
// cuGraphAddEventWaitNode, cuGraphAddBatchMemOpNode, cuGraphAddNode, cuGraphAddNode_v2, cuGraphAddNode_v3,
// cuGraphKernelNodeGetParams, cuGraphKernelNodeSetParams, cuGraphExecKernelNodeSetParams,
// cuGraphMemcpyNodeGetParams, cuGraphMemcpyNodeSetParams, cuGraphExecMemcpyNodeSetParams,
// cuGraphMemsetNodeGetParams, cuGraphMemsetNodeSetParams, cuGraphExecMemsetNodeSetParams,
// cuGraphHostNodeGetParams, cuGraphHostNodeSetParams, cuGraphExecHostNodeSetParams,
// cuGraphBatchMemOpNodeGetParams, cuGraphBatchMemOpNodeSetParams, cuGraphExecBatchMemOpNodeSetParams,
// cuGraphKernelNodeGetParams_v2, cuGraphKernelNodeSetParams_v2, cuGraphExecKernelNodeSetParams_v2,
// cuGraphNodeGetParams, cuGraphNodeSetParams, cuGraphNodeSetParams_v2, cuGraphExecNodeSetParams, cuGraphExecChildGraphNodeSetParams,
// cuGraphChildGraphNodeGetGraph, cuGraphEventRecordNodeGetEvent, cuGraphEventRecordNodeSetEvent,
// cuGraphExecEventRecordNodeSetEvent, cuGraphEventWaitNodeGetEvent, cuGraphEventWaitNodeSetEvent,
// cuGraphExecEventWaitNodeSetEvent, cuGraphKernelNodeGetAttribute, cuGraphKernelNodeSetAttribute,
// cuGraphKernelNodeCopyAttributes, cuGraphNodeGetType, cuGraphNodeGetLocalId, cuGraphNodeGetToolsId,
// cuGraphNodeGetContainingGraph, cuGraphNodeFindInClone, cuGraphClone, cuGraphDestroyNode, cuGraphGetId,
// cuGraphExecGetId, cuGraphExecGetFlags, cuGraphExecUpdate, cuGraphExecUpdate_v2, cuGraphNodeGetEnabled,
// cuGraphNodeSetEnabled, cuGraphGetRootNodes, cuGraphGetEdges, cuGraphGetEdges_v2, cuGraphDebugDotPrint,
// cuGraphNodeGetDependencies, cuGraphNodeGetDependencies_v2, cuGraphNodeGetDependentNodes,
// cuGraphNodeGetDependentNodes_v2, cuGraphAddDependencies, cuGraphAddDependencies_v2,
// cuGraphRemoveDependencies, cuGraphRemoveDependencies_v2
#include "program.h"

#include <stdatomic.h>
#include <unistd.h>

EMBED_PTX(kernels, "kernels.ptx");

enum { COUNT = 1024 };

static CUmodule module;
static CUfunction step;
static CUstream stream;
static CUdeviceptr data, other;
static unsigned back[COUNT], *pinned;

// Parameters of the kernel: to[i] = to[i] * factor + term.
typedef struct { CUdeviceptr to; unsigned n, factor, term; void *list[4]; } Step;

static Step *step_of(Step *s, CUdeviceptr to, unsigned factor, unsigned term) {
    s->to = to, s->n = COUNT, s->factor = factor, s->term = term;
    s->list[0] = &s->to, s->list[1] = &s->n, s->list[2] = &s->factor, s->list[3] = &s->term;
    return s;
}

static CUDA_KERNEL_NODE_PARAMS kernel(Step *s) {
    const CUDA_KERNEL_NODE_PARAMS params = {step, COUNT / 256, 1, 1, 256, 1, 1, 0, s->list, NULL, NULL, NULL};
    return params;
}

static CUDA_KERNEL_NODE_PARAMS_v1 kernel_v1(Step *s) {
    const CUDA_KERNEL_NODE_PARAMS_v1 params = {step, COUNT / 256, 1, 1, 256, 1, 1, 0, s->list, NULL};
    return params;
}

static CUDA_MEMCPY3D copy(CUdeviceptr to, CUdeviceptr from, size_t bytes) {
    CUDA_MEMCPY3D params;
    memset(&params, 0, sizeof params);
    params.from_type = params.to_type = CU_MEMORYTYPE_DEVICE;
    params.from_device = from, params.to_device = to;
    params.width = bytes, params.height = params.depth = 1;
    return params;
}

static CUDA_MEMSET_NODE_PARAMS fill(CUdeviceptr to, unsigned value) {
    const CUDA_MEMSET_NODE_PARAMS params = {to, 0, value, 4, COUNT, 1};
    return params;
}

static int wrong(CUdeviceptr from, unsigned expected) {
    int count = 0;
    CHECK(cuMemcpyDtoH(back, from, sizeof back));
    for (int i = 0; i < COUNT; ++i) count += back[i] != expected;
    return count;
}

static int type_of(CUgraphNode node) {
    int type = -1;
    CHECK(cuGraphNodeGetType(node, &type));
    return type;
}

static void run(CUgraphExec exec) {
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuStreamSynchronize(stream));
}

static CUgraphExec exec_of(CUgraph graph) {
    CUgraphExec exec;
    CHECK(cuGraphInstantiateWithFlags(&exec, graph, 0));
    return exec;
}

static atomic_int called;

static void count_call(void *by) { atomic_fetch_add(&called, *(int *)by); }

// Kernels, copies and fills: what they are told to do, what they say they do, and what they do.
static void device_work(CUcontext context) {
    CUgraph graph;
    CUgraphNode set, first, second, moved, empty;
    Step a, b;
    CUDA_MEMSET_NODE_PARAMS filled = fill(data, 3), fill_back;
    CUDA_KERNEL_NODE_PARAMS k = kernel(step_of(&a, data, 2, 1)), k_back;
    CUDA_KERNEL_NODE_PARAMS_v1 old = kernel_v1(step_of(&b, data, 1, 5)), old_back;
    CUDA_MEMCPY3D copied = copy(other, data, sizeof back), copy_back;
    CHECK(cuGraphCreate(&graph, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphCreate(&graph, 1));
    CHECK(cuGraphAddMemsetNode(&set, graph, NULL, 0, &filled, context));
    CHECK(cuGraphAddKernelNode_v2(&first, graph, &set, 1, &k));
    CHECK(cuGraphAddKernelNode(&second, graph, &first, 1, &old));
    CHECK(cuGraphAddMemcpyNode(&moved, graph, &second, 1, &copied, context));
    CHECK(cuGraphAddEmptyNode(&empty, graph, &moved, 1));
    CHECK_THAT(type_of(set) == CU_GRAPH_NODE_TYPE_MEMSET && type_of(first) == CU_GRAPH_NODE_TYPE_KERNEL);
    CHECK_THAT(type_of(moved) == CU_GRAPH_NODE_TYPE_MEMCPY && type_of(empty) == CU_GRAPH_NODE_TYPE_EMPTY);
    // The parameters were taken when the nodes were made.
    step_of(&a, 0, 0, 0), step_of(&b, 0, 0, 0);
    CUgraphExec exec = exec_of(graph);
    run(exec);
    CHECK_THAT(wrong(data, 12) == 0 && wrong(other, 12) == 0);
    printf("kernels: %u\n", back[0]);

    CHECK(cuGraphKernelNodeGetParams_v2(first, &k_back));
    CHECK_THAT(k_back.function == step && k_back.grid_x == COUNT / 256 && k_back.block_x == 256);
    CHECK_THAT(*(CUdeviceptr *)k_back.parameters[0] == data && *(unsigned *)k_back.parameters[2] == 2);
    CHECK(cuGraphKernelNodeGetParams(second, &old_back));
    CHECK_THAT(old_back.function == step && *(unsigned *)old_back.parameters[3] == 5);
    CHECK(cuGraphMemsetNodeGetParams(set, &fill_back));
    CHECK_THAT(fill_back.to == data && fill_back.value == 3 && fill_back.width == COUNT && fill_back.element_bytes == 4);
    CHECK(cuGraphMemcpyNodeGetParams(moved, &copy_back));
    CHECK_THAT(copy_back.to_device == other && copy_back.from_device == data && copy_back.width == sizeof back);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphMemsetNodeGetParams(first, &fill_back));

    // A node that changes, changes nothing in what was made of its graph.
    k = kernel(step_of(&a, data, 4, 0)), old = kernel_v1(step_of(&b, data, 1, 2));
    CHECK(cuGraphKernelNodeSetParams_v2(first, &k));
    CHECK(cuGraphKernelNodeSetParams(second, &old));
    filled = fill(data, 1);
    CHECK(cuGraphMemsetNodeSetParams(set, &filled));
    copied.width = sizeof back / 2;
    CHECK(cuGraphMemcpyNodeSetParams(moved, &copied));
    run(exec);
    CHECK_THAT(wrong(data, 12) == 0);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuMemsetD32(other, 0, COUNT));
    CHECK(cuCtxSynchronize());
    exec = exec_of(graph);
    run(exec);
    CHECK_THAT(wrong(data, 6) == 0);
    CHECK(cuMemcpyDtoH(back, other, sizeof back));
    CHECK_THAT(back[COUNT / 2 - 1] == 6 && back[COUNT / 2] == 0);

    // In the executable graph alone.
    k = kernel(step_of(&a, data, 10, 0)), old = kernel_v1(step_of(&b, data, 1, 7));
    filled = fill(data, 2), copied.width = sizeof back;
    CHECK(cuGraphExecKernelNodeSetParams_v2(exec, first, &k));
    CHECK(cuGraphExecKernelNodeSetParams(exec, second, &old));
    CHECK(cuGraphExecMemsetNodeSetParams(exec, set, &filled, context));
    CHECK(cuGraphExecMemcpyNodeSetParams(exec, moved, &copied, context));
    run(exec);
    CHECK_THAT(wrong(data, 27) == 0 && wrong(other, 27) == 0);
    CHECK(cuGraphMemsetNodeGetParams(set, &fill_back));
    CHECK_THAT(fill_back.value == 1);
    unsigned enabled = 9;
    CHECK(cuGraphNodeGetEnabled(exec, first, &enabled));
    CHECK_THAT(enabled == 1);
    CHECK(cuGraphNodeSetEnabled(exec, first, 0));
    CHECK(cuGraphNodeGetEnabled(exec, first, &enabled));
    CHECK_THAT(enabled == 0);
    run(exec);
    CHECK_THAT(wrong(data, 9) == 0);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphNodeSetEnabled(exec, empty, 0));
    printf("changed: %u\n", back[0]);

    // Mistakes.
    k.block_x = 4096;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphKernelNodeSetParams_v2(first, &k));
    filled = fill(8, 1);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphMemsetNodeSetParams(set, &filled));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(NULL, graph, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(&empty, NULL, NULL, 0));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddEmptyNode(&empty, graph, NULL, 1));

    int value[16] = {0}, told[16] = {9};
    value[0] = -1;
    CHECK(cuGraphKernelNodeSetAttribute(first, CU_LAUNCH_ATTRIBUTE_PRIORITY, value));
    CHECK(cuGraphKernelNodeCopyAttributes(second, first));
    CHECK(cuGraphKernelNodeGetAttribute(second, CU_LAUNCH_ATTRIBUTE_PRIORITY, told));
    CHECK_THAT(told[0] == -1);
    uint64_t flags = 9;
    unsigned id = 0, local = 0;
    unsigned long long tools = 0;
    CHECK(cuGraphExecGetFlags(exec, &flags));
    CHECK(cuGraphExecGetId(exec, &id));
    CHECK_THAT(flags == 0 && id != 0);
    CHECK(cuGraphGetId(graph, &id));
    CHECK(cuGraphNodeGetLocalId(first, &local));
    CHECK(cuGraphNodeGetToolsId(first, &tools));
    CHECK_THAT(id != 0 && tools != 0);
    CUgraph same = NULL;
    CHECK(cuGraphNodeGetContainingGraph(first, &same));
    CHECK_THAT(same == graph);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(graph));
    CHECK_THAT(cuGraphNodeGetType(first, &(int){0}) != CUDA_SUCCESS);
}

// Host functions, events and words.
static void host_work(CUcontext context) {
    static int one = 1, ten = 10, hundred = 100;
    CUgraph graph;
    CUgraphNode run_host, record, wait, words;
    CUevent mark, gate;
    CUDA_HOST_NODE_PARAMS host = {count_call, &one}, host_back;
    CUstreamBatchMemOpParams list[2];
    memset(list, 0, sizeof list);
    list[0].word.operation = CU_STREAM_MEM_OP_WRITE_VALUE_32, list[0].word.address = data, list[0].word.value = 21;
    list[1].word.operation = CU_STREAM_MEM_OP_WAIT_VALUE_32, list[1].word.address = data, list[1].word.value = 21;
    CUDA_BATCH_MEM_OP_NODE_PARAMS batch = {context, 2, list, 0}, batch_back;
    CHECK(cuEventCreate(&mark, CU_EVENT_DISABLE_TIMING));
    CHECK(cuEventCreate(&gate, CU_EVENT_DISABLE_TIMING));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphAddEventWaitNode(&wait, graph, NULL, 0, gate));
    CHECK(cuGraphAddHostNode(&run_host, graph, &wait, 1, &host));
    CHECK(cuGraphAddBatchMemOpNode(&words, graph, &run_host, 1, &batch));
    CHECK(cuGraphAddEventRecordNode(&record, graph, &words, 1, mark));
    CHECK_THAT(type_of(wait) == CU_GRAPH_NODE_TYPE_WAIT_EVENT && type_of(record) == CU_GRAPH_NODE_TYPE_EVENT_RECORD);
    CHECK_THAT(type_of(run_host) == CU_GRAPH_NODE_TYPE_HOST && type_of(words) == CU_GRAPH_NODE_TYPE_BATCH_MEM_OP);
    CUgraphExec exec = exec_of(graph);
    run(exec);
    run(exec);
    CHECK(cuEventSynchronize(mark));
    CHECK_THAT(called == 2);
    CHECK(cuMemcpyDtoH(back, data, 4));
    CHECK_THAT(back[0] == 21);
    CHECK(cuGraphHostNodeGetParams(run_host, &host_back));
    CHECK_THAT(host_back.function == count_call && host_back.data == &one);
    CHECK(cuGraphBatchMemOpNodeGetParams(words, &batch_back));
    CHECK_THAT(batch_back.count == 2 && batch_back.list[1].word.address == data && batch_back.context == context);
    CUevent event = NULL;
    CHECK(cuGraphEventRecordNodeGetEvent(record, &event));
    CHECK_THAT(event == mark);
    CHECK(cuGraphEventWaitNodeGetEvent(wait, &event));
    CHECK_THAT(event == gate);
    // Changed in the graph, and in the executable one.
    host.data = &ten;
    CHECK(cuGraphHostNodeSetParams(run_host, &host));
    list[0].word.value = list[1].word.value = 22;
    CHECK(cuGraphBatchMemOpNodeSetParams(words, &batch));
    CHECK(cuGraphEventRecordNodeSetEvent(record, gate));
    CHECK(cuGraphEventWaitNodeSetEvent(wait, mark));
    CHECK(cuGraphEventRecordNodeGetEvent(record, &event));
    CHECK_THAT(event == gate);
    run(exec);
    CHECK_THAT(called == 3);
    host.data = &hundred;
    list[0].word.value = list[1].word.value = 23;
    CHECK(cuGraphExecHostNodeSetParams(exec, run_host, &host));
    CHECK(cuGraphExecBatchMemOpNodeSetParams(exec, words, &batch));
    CHECK(cuGraphExecEventRecordNodeSetEvent(exec, record, gate));
    CHECK(cuGraphExecEventWaitNodeSetEvent(exec, wait, mark));
    run(exec);
    CHECK_THAT(called == 103);
    CHECK(cuMemcpyDtoH(back, data, 4));
    CHECK_THAT(back[0] == 23);
    CHECK(cuEventQuery(gate));
    // Destroyed while it is on its way: the host function is run all the same.
    CHECK(cuGraphLaunch(exec, stream));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuStreamSynchronize(stream));
    CHECK_THAT(called == 203);
    exec = exec_of(graph);
    CHECK(cuGraphDestroy(graph));
    run(exec);
    CHECK_THAT(called == 213);
    printf("host functions: %d\n", called);
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuEventDestroy(mark));
    CHECK(cuEventDestroy(gate));
}

// Edges, roots, clones, nodes that go.
static void structure(void) {
    CUgraph graph, clone;
    CUgraphNode n[4], from[8], to[8], found;
    CUgraphEdgeData edges[8];
    size_t count = 0;
    CHECK(cuGraphCreate(&graph, 0));
    for (int i = 0; i < 4; ++i) CHECK(cuGraphAddEmptyNode(&n[i], graph, NULL, 0));
    CHECK(cuGraphAddDependencies(graph, (CUgraphNode[]){n[0], n[0]}, (CUgraphNode[]){n[1], n[2]}, 2));
    CHECK(cuGraphAddDependencies_v2(graph, (CUgraphNode[]){n[1], n[2]}, (CUgraphNode[]){n[3], n[3]}, NULL, 2));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &n[0], &n[1], 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddDependencies(graph, &n[0], &n[0], 1));
    CHECK(cuGraphGetRootNodes(graph, NULL, &count));
    CHECK_THAT(count == 1);
    CHECK(cuGraphGetRootNodes(graph, from, &count));
    CHECK_THAT(from[0] == n[0]);
    CHECK(cuGraphGetEdges(graph, NULL, NULL, &count));
    CHECK_THAT(count == 4);
    count = 8;
    CHECK(cuGraphGetEdges(graph, from, to, &count));
    int known = 0;
    for (size_t i = 0; i < count; ++i) known += (from[i] == n[0]) + (to[i] == n[3]);
    CHECK_THAT(count == 4 && known == 4);
    count = 8;
    CHECK(cuGraphGetEdges_v2(graph, from, to, edges, &count));
    CHECK_THAT(count == 4 && edges[3].type == 0);
    count = 8;
    CHECK(cuGraphNodeGetDependencies(n[3], from, &count));
    CHECK_THAT(count == 2 && from[0] != from[1] && (from[0] == n[1] || from[0] == n[2]));
    count = 8;
    CHECK(cuGraphNodeGetDependencies_v2(n[1], from, edges, &count));
    CHECK_THAT(count == 1 && from[0] == n[0]);
    CHECK(cuGraphNodeGetDependentNodes(n[0], NULL, &count));
    CHECK_THAT(count == 2);
    count = 8;
    CHECK(cuGraphNodeGetDependentNodes_v2(n[1], from, edges, &count));
    CHECK_THAT(count == 1 && from[0] == n[3]);

    CHECK(cuGraphClone(&clone, graph));
    CHECK(cuGraphNodeFindInClone(&found, n[3], clone));
    CHECK_THAT(found != n[3]);
    CHECK(cuGraphNodeGetDependencies(found, NULL, &count));
    CHECK_THAT(count == 2);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphNodeFindInClone(&found, n[3], graph));

    CHECK(cuGraphRemoveDependencies(graph, &n[0], &n[1], 1));
    CHECK(cuGraphRemoveDependencies_v2(graph, &n[1], &n[3], NULL, 1));
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphRemoveDependencies(graph, &n[0], &n[1], 1));
    CHECK(cuGraphDestroyNode(n[2]));
    CHECK(cuGraphGetEdges(graph, NULL, NULL, &count));
    CHECK_THAT(count == 0);
    CHECK(cuGraphGetNodes(graph, NULL, &count));
    CHECK_THAT(count == 3 && cuGraphDestroyNode(n[2]) != CUDA_SUCCESS);
    CHECK(cuGraphGetNodes(clone, NULL, &count));
    CHECK_THAT(count == 4);
    // A circle is found when the graph is to be run.
    CHECK(cuGraphAddDependencies(graph, (CUgraphNode[]){n[0], n[1]}, (CUgraphNode[]){n[1], n[0]}, 2));
    CUgraphExec exec;
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphInstantiateWithFlags(&exec, graph, 0));

    char path[] = "/tmp/drv_graph.XXXXXX", line[256];
    CHECK_THAT(mkstemp(path) >= 0);
    CHECK(cuGraphDebugDotPrint(clone, path, 0));
    FILE *file = fopen(path, "r");
    int arrows = 0, digraph = 0;
    while (file != NULL && fgets(line, sizeof line, file) != NULL) {
        arrows += strstr(line, "->") != NULL;
        digraph += strstr(line, "digraph") != NULL;
    }
    CHECK_THAT(digraph == 1 && arrows == 4);
    if (file != NULL) fclose(file);
    unlink(path);
    printf("edges of the clone, printed: %d\n", arrows);
    CHECK(cuGraphDestroy(clone));
    CHECK(cuGraphDestroy(graph));
}

static CUgraphNodeParams of_type(int type) {
    CUgraphNodeParams params;
    memset(&params, 0, sizeof params);
    params.type = type;
    return params;
}

// The one form for all kinds of nodes, and graphs in graphs.
static void generic(CUcontext context) {
    static int one = 1, ten = 10;
    CUgraph graph, child, inside;
    CUgraphNode n[8], in_child;
    CUevent event;
    Step a;
    called = 0;
    CHECK(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    CHECK(cuGraphCreate(&graph, 0));
    CHECK(cuGraphCreate(&child, 0));
    CUgraphNodeParams set = of_type(CU_GRAPH_NODE_TYPE_MEMSET), launch = of_type(CU_GRAPH_NODE_TYPE_KERNEL);
    CUgraphNodeParams move = of_type(CU_GRAPH_NODE_TYPE_MEMCPY), host = of_type(CU_GRAPH_NODE_TYPE_HOST);
    CUgraphNodeParams empty = of_type(CU_GRAPH_NODE_TYPE_EMPTY), record = of_type(CU_GRAPH_NODE_TYPE_EVENT_RECORD);
    CUgraphNodeParams wait = of_type(CU_GRAPH_NODE_TYPE_WAIT_EVENT), inner = of_type(CU_GRAPH_NODE_TYPE_GRAPH);
    set.of.memset.fill = fill(data, 5), set.of.memset.context = context;
    launch.of.kernel = kernel(step_of(&a, data, 3, 0));
    move.of.memcpy.copy = copy(other, data, sizeof back), move.of.memcpy.context = context;
    host.of.host.function = count_call, host.of.host.data = &one;
    record.of.event = wait.of.event = event;
    CHECK(cuGraphAddNode(&in_child, child, NULL, 0, &launch));
    inner.of.graph = child;
    CHECK(cuGraphAddNode(&n[0], graph, NULL, 0, &set));
    CHECK(cuGraphAddNode_v2(&n[1], graph, &n[0], NULL, 1, &inner));
    CHECK(cuGraphAddNode_v3(&n[2], graph, &n[1], NULL, 1, &move));
    CHECK(cuGraphAddNode(&n[3], graph, &n[2], 1, &host));
    CHECK(cuGraphAddNode(&n[4], graph, &n[3], 1, &record));
    CHECK(cuGraphAddNode(&n[5], graph, &n[4], 1, &wait));
    CHECK(cuGraphAddNode(&n[6], graph, &n[5], 1, &empty));
    CHECK(cuGraphAddChildGraphNode(&n[7], graph, &n[6], 1, child));
    CHECK_THAT(type_of(n[1]) == CU_GRAPH_NODE_TYPE_GRAPH && type_of(n[7]) == CU_GRAPH_NODE_TYPE_GRAPH);
    CHECK(cuGraphChildGraphNodeGetGraph(n[1], &inside));
    size_t count = 0;
    CHECK(cuGraphGetNodes(inside, NULL, &count));
    CHECK_THAT(inside != child && count == 1);
    CHECK(cuGraphDestroy(child));
    // What is told of a node is what was said, and may be said again.
    CUgraphNodeParams told[7], kernel_told;
    for (int i = 0; i < 7; ++i) {
        memset(&told[i], 0xff, sizeof told[i]);
        CHECK(cuGraphNodeGetParams(n[i], &told[i]));
        CHECK_THAT(told[i].type == type_of(n[i]));
    }
    CHECK_THAT(told[0].of.memset.fill.to == data && told[0].of.memset.fill.value == 5);
    CHECK_THAT(told[0].of.memset.context == context && told[2].of.memcpy.context == context);
    CHECK_THAT(told[1].of.graph == inside);
    CHECK_THAT(told[2].of.memcpy.copy.to_device == other && told[2].of.memcpy.copy.from_device == data);
    CHECK_THAT(told[2].of.memcpy.copy.width == sizeof back);
    CHECK_THAT(told[3].of.host.function == count_call && told[3].of.host.data == &one);
    CHECK_THAT(told[4].of.event == event && told[5].of.event == event);
    count = 1;
    CHECK(cuGraphGetNodes(inside, &in_child, &count));
    CHECK(cuGraphNodeGetParams(in_child, &kernel_told));
    CHECK_THAT(kernel_told.type == CU_GRAPH_NODE_TYPE_KERNEL);
    CHECK(cuGraphNodeSetParams(in_child, &kernel_told));
    for (int i = 0; i < 6; ++i) {
        if (i != 1) CHECK(cuGraphNodeSetParams(n[i], &told[i]));
    }
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphNodeGetParams(n[0], NULL));
    CUgraphExec exec = exec_of(graph);
    run(exec);
    CHECK_THAT(wrong(other, 15) == 0 && wrong(data, 45) == 0 && called == 1);
    printf("a graph in a graph: %u\n", back[0]);
    launch.of.kernel = kernel(step_of(&a, data, 7, 0));
    count = 1;
    CHECK(cuGraphGetNodes(inside, &in_child, &count));
    CHECK(cuGraphNodeSetParams(in_child, &launch));
    host.of.host.data = &ten;
    CHECK(cuGraphNodeSetParams_v2(n[3], &host));
    set.of.memset.fill = fill(data, 2);
    CHECK(cuGraphExecNodeSetParams(exec, n[0], &set));
    run(exec);
    CHECK_THAT(wrong(other, 6) == 0 && wrong(data, 18) == 0 && called == 2);
    CHECK(cuGraphCreate(&child, 0));
    launch.of.kernel = kernel(step_of(&a, data, 10, 0));
    CHECK(cuGraphAddNode(&in_child, child, NULL, 0, &launch));
    CHECK(cuGraphExecChildGraphNodeSetParams(exec, n[1], child));
    run(exec);
    CHECK_THAT(wrong(other, 20) == 0 && wrong(data, 60) == 0);

    // Another graph of the same shape takes the place of what is run, and one of another shape does not.
    CUgraphExecUpdateResultInfo info = {9, (CUgraphNode)&info, (CUgraphNode)&info};
    CUgraphNode bad = NULL;
    int result = 9;
    CHECK(cuGraphExecUpdate_v2(exec, graph, &info));
    CHECK_THAT(info.result == CU_GRAPH_EXEC_UPDATE_SUCCESS && info.node == NULL);
    run(exec);
    CHECK_THAT(wrong(other, 35) == 0 && wrong(data, 105) == 0 && called == 13);
    CHECK(cuGraphExecUpdate(exec, graph, &bad, &result));
    CHECK_THAT(result == CU_GRAPH_EXEC_UPDATE_SUCCESS && bad == NULL);
    CHECK_ERROR(CUDA_ERROR_GRAPH_EXEC_UPDATE_FAILURE, cuGraphExecUpdate_v2(exec, child, &info));
    CHECK_THAT(info.result == CU_GRAPH_EXEC_UPDATE_ERROR_TOPOLOGY_CHANGED);
    CHECK(cuGraphDestroyNode(n[7]));
    CHECK(cuGraphAddEmptyNode(&n[7], graph, &n[6], 1));
    printf("updated: %u, called %d\n", back[0], called);
    CUgraphNodeParams unknown = of_type(77);
    CHECK_ERROR(CUDA_ERROR_INVALID_VALUE, cuGraphAddNode(&bad, graph, NULL, 0, &unknown));
    CHECK(cuGraphExecDestroy(exec));
    CHECK(cuGraphDestroy(child));
    CHECK(cuGraphDestroy(graph));
    CHECK(cuEventDestroy(event));
}

int main(void) {
    // Whoever waits for the wrong thing waits for ever.
    alarm(100);
    const CUcontext context = start();
    CHECK(cuModuleLoadData(&module, kernels));
    step = function_of(module, "step");
    CHECK(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    CHECK(cuMemAlloc(&data, sizeof back));
    CHECK(cuMemAlloc(&other, sizeof back));
    CHECK(cuMemAllocHost((void **)&pinned, sizeof back));
    device_work(context);
    host_work(context);
    structure();
    generic(context);
    CHECK(cuMemFreeHost(pinned));
    CHECK(cuMemFree(other));
    CHECK(cuMemFree(data));
    return result("drv_graph");
}
