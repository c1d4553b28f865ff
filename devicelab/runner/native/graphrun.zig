//! Any ONNX graph, run once: the verb `run`.

const std = @import("std");
const dtypes = @import("dtype.zig");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const graph = @import("graph.zig");
const Job = @import("job.zig").Job;
const messages = @import("messages.zig");
const ort = @import("ort.zig");
const results = @import("result.zig");
const safetensors = @import("safetensors.zig");
const shapePart = @import("text.zig").shapePart;
const signals = @import("signals.zig");

const Failure = failures.Failure;
const fail = failures.fail;

/// Runs the graph, writes outputs.safetensors and result.json, says done.
pub fn runGraph(arena: *Arena, job: *const Job) Failure!void {
    if (job.threads > 1) try graph.refuseRacingScatters(job.plan);
    const session: ort.Session = try .load(job.plan, job.threads);
    const inputs = try readInputs(arena, session, job.inputs);
    const outputs = try findOutputs(arena, session);
    var times: results.Times = .{ .start = messages.elapsed() };
    try signals.check();
    try session.run(inputs.names, inputs.values, outputs.names, outputs.values);
    times.work = messages.elapsed() - times.start;
    const written = try writeOutputs(arena, outputs);
    times.write = messages.elapsed() - times.start - times.work;
    var report: results.Report = .{ .job = job, .times = times, .file = written };
    try results.publish(arena, &report);
}

const Inputs = struct { names: []const [*:0]const u8, values: []const *const ort.Value };
const Outputs = struct { names: []const [*:0]const u8, values: []?*ort.Value };

const File = struct { path: [:0]const u8, content: []const u8, tensors: safetensors.Tensors };

/// A value for every input of the graph, from the first file that has it.
fn readInputs(arena: *Arena, session: ort.Session, paths: []const [:0]const u8) Failure!Inputs {
    const allocator = arena.allocator();
    const stored = try allocator.alloc(File, paths.len);
    var opened: usize = 0;
    defer for (stored[0..opened]) |file| files.unmap(file.content);
    for (paths, stored) |path, *file| {
        const content = try files.map(path, std.math.maxInt(u64));
        file.* = .{ .path = path, .content = content, .tensors = undefined };
        opened += 1;
        file.tensors = try safetensors.parse(allocator, content, path);
    }
    const count = try session.count(.input);
    const names = try allocator.alloc([*:0]const u8, count);
    const values = try allocator.alloc(*const ort.Value, count);
    for (names, values, 0..) |*name, *value, i| {
        const wanted = try session.describe(allocator, .input, i);
        value.* = try readInput(arena, stored, &wanted);
        name.* = wanted.name;
    }
    const held = stored[0].tensors.sorted.len;
    if (paths.len == 1 and held > count) // one file is made for the graph; several may be of use for others, too
        return fail(error.Input, "{}: it holds {} tensors, the graph has {} inputs", .{ paths[0], held, count });
    return .{ .names = names, .values = values };
}

fn readInput(arena: *Arena, stored: []const File, wanted: *const ort.Description) Failure!*const ort.Value {
    for (stored) |*file| {
        const tensor = file.tensors.find(wanted.name) orelse continue;
        if (!fits(tensor, wanted)) return fail(
            error.Input,
            "{}: \"{}\" is {}{}, the graph takes {} with {} dimensions, or other sizes",
            .{
                file.path,                wanted.name,          tensor.dtype.label(),
                shapePart(&tensor.shape), wanted.dtype.label(), wanted.rank,
            },
        );
        const bytes = file.tensors.bytes(tensor);
        const memory = try arena.tensor(bytes.len); // a copy, because a file's tensors are not aligned
        @memcpy(memory, bytes);
        return ort.tensor(memory, tensor.dtype, &tensor.shape);
    }
    const last = stored[stored.len - 1].path;
    if (stored.len == 1) return fail(error.Input, "{}: it lacks \"{}\"", .{ last, wanted.name });
    return fail(error.Input, "none of {} files of inputs has \"{}\"", .{ stored.len, wanted.name });
}

fn fits(tensor: *const safetensors.Tensor, wanted: *const ort.Description) bool {
    if (tensor.dtype != wanted.dtype) return false;
    if (wanted.rank == 0) return true; // a single number, or a graph that says nothing: the engine will see
    if (tensor.shape.rank != wanted.rank) return false;
    for (tensor.shape.slice(), wanted.sizes[0..wanted.rank]) |size, promised| {
        if (promised) |exactly| if (size != exactly) return false;
    }
    return true;
}

fn findOutputs(arena: *Arena, session: ort.Session) Failure!Outputs {
    const allocator = arena.allocator();
    const count = try session.count(.output);
    const names = try allocator.alloc([*:0]const u8, count);
    const values = try allocator.alloc(?*ort.Value, count);
    for (names, values, 0..) |*name, *value, i| {
        const text = try session.name(allocator, .output, i);
        if (text.len > safetensors.name_bytes_max)
            return fail(error.Input, "an output's name is longer than {} bytes", .{safetensors.name_bytes_max});
        name.* = text;
        value.* = null; // the engine makes it
    }
    return .{ .names = names, .values = values };
}

fn writeOutputs(arena: *Arena, outputs: Outputs) Failure!files.Written {
    const allocator = arena.allocator();
    const tensors = try allocator.alloc(ort.Tensor, outputs.values.len);
    const entries = try allocator.alloc(safetensors.Entry, outputs.values.len);
    for (outputs.names, outputs.values, tensors, entries) |name, value, *tensor, *entry| {
        const text = std.mem.span(name);
        tensor.* = try ort.content(value.?, text);
        entry.* = .{ .name = text, .dtype = tensor.dtype, .shape = tensor.shape };
    }
    const writer = try allocator.create(files.Writer);
    try writer.create(results.outputs_name, try allocator.alloc(u8, files.Writer.buffer_bytes));
    errdefer writer.abandon();
    try safetensors.writeHeader(allocator, writer, entries);
    for (tensors) |tensor| try writer.write(tensor.data);
    return writer.commit();
}
