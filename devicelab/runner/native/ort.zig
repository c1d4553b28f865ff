//! The part of ONNX Runtime's C API that the runner needs, by hand: `OrtApi` is a table of function pointers that only
//! ever grows at its end, so a function's place in it is part of the ABI. The places below were counted in
//! onnxruntime_c_api.h of 1.29.0; all are in the first 137, which 1.18 (version 18 of the table) has too. Tests call
//! every one of them through the runner on the installed ONNX Runtime.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const messages = @import("messages.zig");
const signals = @import("signals.zig");
const sys = @import("sys.zig");
const Dtype = @import("dtype.zig").Dtype;
const Shape = @import("dtype.zig").Shape;
const rank_max = @import("dtype.zig").rank_max;

const Failure = failures.Failure;
const fail = failures.fail;

const api_version = 18;

const Status = opaque {};
const Env = opaque {};
const SessionOptions = opaque {};
const MemoryInfo = opaque {};
const Allocator = opaque {};
const TypeInfo = opaque {};
const TensorInfo = opaque {};
const ModelMetadata = opaque {};
const RunOptions = opaque {};
pub const Value = opaque {};
const RawSession = opaque {};
const RawBinding = opaque {};

const ApiBase = extern struct {
    getApi: *const fn (u32) callconv(.c) ?[*]const *const anyopaque,
    getVersionString: *const fn () callconv(.c) [*:0]const u8,
};

extern fn OrtGetApiBase() *const ApiBase;

/// `OrtApi`, once `open` has found it.
var table: [*]const *const anyopaque = undefined;

fn Entry(comptime place: usize, comptime Function: type) type {
    return struct {
        inline fn get() *align(1) const Function { // Thumb code is at odd addresses
            return @ptrCast(table[place]);
        }
    };
}

const S = ?*Status;
const get_error_code = Entry(1, fn (*const Status) callconv(.c) c_int).get;
const get_error_message = Entry(2, fn (*const Status) callconv(.c) [*:0]const u8).get;
const create_env = Entry(3, fn (c_int, [*:0]const u8, *?*Env) callconv(.c) S).get;
const create_session = Entry(7, fn (
    *const Env,
    [*:0]const u8,
    *const SessionOptions,
    *?*RawSession,
) callconv(.c) S).get;
const run_session = Entry(9, fn (
    *RawSession,
    ?*const RunOptions,
    [*]const [*:0]const u8,
    [*]const *const Value,
    usize,
    [*]const [*:0]const u8,
    usize,
    [*]?*Value,
) callconv(.c) S).get;
const create_session_options = Entry(10, fn (*?*SessionOptions) callconv(.c) S).get;
const set_optimization_level = Entry(23, fn (*SessionOptions, c_int) callconv(.c) S).get;
const set_intra_op_threads = Entry(24, fn (*SessionOptions, c_int) callconv(.c) S).get;
const set_inter_op_threads = Entry(25, fn (*SessionOptions, c_int) callconv(.c) S).get;
const session_input_count = Entry(30, fn (*const RawSession, *usize) callconv(.c) S).get;
const session_output_count = Entry(31, fn (*const RawSession, *usize) callconv(.c) S).get;
const session_input_type = Entry(33, fn (*const RawSession, usize, *?*TypeInfo) callconv(.c) S).get;
const session_output_type = Entry(34, fn (*const RawSession, usize, *?*TypeInfo) callconv(.c) S).get;
const session_input_name = Entry(36, fn (*const RawSession, usize, *Allocator, *?[*:0]u8) callconv(.c) S).get;
const session_output_name = Entry(37, fn (*const RawSession, usize, *Allocator, *?[*:0]u8) callconv(.c) S).get;
const create_run_options = Entry(39, fn (*?*RunOptions) callconv(.c) S).get;
const run_options_set_terminate = Entry(46, fn (*RunOptions) callconv(.c) S).get;
const create_tensor = Entry(49, fn (
    *const MemoryInfo,
    [*]u8,
    usize,
    [*]const i64,
    usize,
    c_int,
    *?*Value,
) callconv(.c) S).get;
const is_tensor = Entry(50, fn (*const Value, *c_int) callconv(.c) S).get;
const tensor_data = Entry(51, fn (*Value, *?[*]u8) callconv(.c) S).get;
const cast_type_to_tensor = Entry(55, fn (*const TypeInfo, *?*const TensorInfo) callconv(.c) S).get;
const tensor_element_type = Entry(60, fn (*const TensorInfo, *c_int) callconv(.c) S).get;
const tensor_rank = Entry(61, fn (*const TensorInfo, *usize) callconv(.c) S).get;
const tensor_sizes = Entry(62, fn (*const TensorInfo, [*]i64, usize) callconv(.c) S).get;
const tensor_type_and_shape = Entry(65, fn (*const Value, *?*TensorInfo) callconv(.c) S).get;
const create_memory_info = Entry(69, fn (c_int, c_int, *?*MemoryInfo) callconv(.c) S).get;
const allocator_free = Entry(76, fn (*Allocator, *anyopaque) callconv(.c) S).get;
const default_allocator = Entry(78, fn (*?*Allocator) callconv(.c) S).get;
const release_status = Entry(93, fn (*Status) callconv(.c) void).get;
const release_value = Entry(96, fn (*Value) callconv(.c) void).get;
const release_type = Entry(98, fn (*TypeInfo) callconv(.c) void).get;
const release_tensor_info = Entry(99, fn (*TensorInfo) callconv(.c) void).get;
const session_metadata = Entry(111, fn (*const RawSession, *?*ModelMetadata) callconv(.c) S).get;
const metadata_lookup = Entry(116, fn (*const ModelMetadata, *Allocator, [*:0]const u8, *?[*:0]u8) callconv(.c) S).get;
const release_metadata = Entry(118, fn (*ModelMetadata) callconv(.c) void).get;
const run_with_binding = Entry(133, fn (*RawSession, *const RunOptions, *const RawBinding) callconv(.c) S).get;
const create_binding = Entry(134, fn (*RawSession, *?*RawBinding) callconv(.c) S).get;
const bind_input = Entry(136, fn (*RawBinding, [*:0]const u8, *const Value) callconv(.c) S).get;
const bind_output = Entry(137, fn (*RawBinding, [*:0]const u8, *const Value) callconv(.c) S).get;

var env: *Env = undefined;
var memory_info: *MemoryInfo = undefined;
var allocator: *Allocator = undefined;
var run_options: *RunOptions = undefined;

/// The engine's own version; works with any.
pub fn version() []const u8 {
    return std.mem.span(OrtGetApiBase().getVersionString());
}

/// Must come before everything else here.
pub fn open() Failure!void {
    table = OrtGetApiBase().getApi(api_version) orelse
        return fail(error.Engine, "ONNX Runtime {} is too old: 1.{} or newer is needed", .{ version(), api_version });
    const log_errors = 3;
    env = try made(Env, create_env(), .{ log_errors, "devicelab" });
    memory_info = try made(MemoryInfo, create_memory_info(), .{ 0, 0 });
    allocator = try made(Allocator, default_allocator(), .{});
    run_options = try made(RunOptions, create_run_options(), .{});
    messages.interrupt = interrupt;
}

/// Only sets a flag in the options, so a signal's handler may call it.
fn interrupt() void {
    _ = run_options_set_terminate()(run_options);
}

/// A graph that is ready to run.
pub const Session = struct {
    raw: *RawSession,

    pub fn load(path: [:0]const u8, threads: u16) Failure!Session {
        try files.require(path);
        const options = try made(SessionOptions, create_session_options(), .{});
        const all = 99;
        try check(set_optimization_level()(options, all));
        try check(set_intra_op_threads()(options, threads));
        try check(set_inter_op_threads()(options, 1));
        return .{ .raw = try made(RawSession, create_session(), .{ env, path, options }) };
    }

    /// An entry of the file's metadata.
    pub fn metadata(session: Session, arena: std.mem.Allocator, key: [:0]const u8) Failure!?[]const u8 {
        const entries = try made(ModelMetadata, session_metadata(), .{session.raw});
        defer release_metadata()(entries);
        var text: ?[*:0]u8 = null;
        try check(metadata_lookup()(entries, allocator, key, &text));
        return try taken(arena, text orelse return null);
    }

    pub fn count(session: Session, comptime side: Side) Failure!usize {
        var number: usize = 0;
        const function = if (side == .input) session_input_count() else session_output_count();
        try check(function(session.raw, &number));
        return number;
    }

    pub fn name(session: Session, arena: std.mem.Allocator, comptime side: Side, index: usize) Failure![:0]const u8 {
        var text: ?[*:0]u8 = null;
        const named = if (side == .input) session_input_name() else session_output_name();
        try check(named(session.raw, index, allocator, &text));
        return taken(arena, text.?);
    }

    pub fn describe(session: Session, arena: std.mem.Allocator, comptime side: Side, index: usize) Failure!Description {
        const named = try session.name(arena, side, index);
        const typed = if (side == .input) session_input_type() else session_output_type();
        const info = try made(TypeInfo, typed, .{ session.raw, index });
        defer release_type()(info);
        var tensor_info: ?*const TensorInfo = null;
        try check(cast_type_to_tensor()(info, &tensor_info)); // null for what is no tensor; owned by `info`
        return describeTensor(named, tensor_info orelse
            return fail(error.Input, "the graph's {} \"{}\" is no tensor", .{ @tagName(side), named }));
    }

    /// Runs the graph once; outputs that are null are made by the engine.
    pub fn run(
        session: Session,
        input_names: []const [*:0]const u8,
        inputs: []const *const Value,
        output_names: []const [*:0]const u8,
        outputs: []?*Value,
    ) Failure!void {
        std.debug.assert(input_names.len == inputs.len);
        std.debug.assert(output_names.len == outputs.len);
        try check(run_session()(
            session.raw,
            run_options,
            input_names.ptr,
            inputs.ptr,
            inputs.len,
            output_names.ptr,
            output_names.len,
            outputs.ptr,
        ));
    }
};

pub const Side = enum { input, output };

/// What the graph says of an input or output.
pub const Description = struct {
    name: [:0]const u8,
    dtype: Dtype,
    rank: usize,
    sizes: [rank_max]?u64, // null where any size fits
};

fn describeTensor(name: [:0]const u8, info: *const TensorInfo) Failure!Description {
    var code: c_int = 0;
    try check(tensor_element_type()(info, &code));
    const dtype = Dtype.fromEngineCode(code) orelse
        return fail(error.Input, "\"{}\" has an element type that the runner does not know ({})", .{ name, code });
    var rank: usize = 0;
    try check(tensor_rank()(info, &rank));
    if (rank > rank_max) return fail(error.Input, "\"{}\" has {} dimensions, more than {}", .{ name, rank, rank_max });
    var numbers: [rank_max]i64 = @splat(0);
    try check(tensor_sizes()(info, &numbers, rank));
    var sizes: [rank_max]?u64 = @splat(null);
    for (numbers[0..rank], sizes[0..rank]) |from, *to| to.* = if (from < 0) null else @intCast(from);
    return .{ .name = name, .dtype = dtype, .rank = rank, .sizes = sizes };
}

/// A tensor around memory that the caller keeps.
pub fn tensor(memory: []u8, dtype: Dtype, shape: *const Shape) Failure!*Value {
    std.debug.assert(shape.bytes(dtype).? == memory.len);
    var sizes: [rank_max]i64 = undefined;
    for (shape.slice(), sizes[0..shape.rank]) |from, *to| to.* = @intCast(from);
    return made(
        Value,
        create_tensor(),
        .{ memory_info, memory.ptr, memory.len, &sizes, shape.rank, dtype.engineCode() },
    );
}

pub fn release(value: *Value) void {
    release_value()(value);
}

pub const Tensor = struct { dtype: Dtype, shape: Shape, data: []const u8 };

/// What the engine made. The memory is the value's.
pub fn content(value: *Value, name: [:0]const u8) Failure!Tensor {
    var yes: c_int = 0;
    try check(is_tensor()(value, &yes));
    if (yes == 0) return fail(error.Input, "the graph's output \"{}\" is no tensor", .{name});
    const info = try made(TensorInfo, tensor_type_and_shape(), .{value});
    defer release_tensor_info()(info);
    const description = try describeTensor(name, info);
    var shape: Shape = .{ .rank = description.rank };
    for (description.sizes[0..shape.rank], shape.sizes[0..shape.rank]) |from, *to| to.* = from.?;
    var data: ?[*]u8 = null;
    try check(tensor_data()(value, &data));
    const bytes = shape.bytes(description.dtype).?;
    return .{
        .dtype = description.dtype,
        .shape = shape,
        .data = if (bytes == 0) &.{} else data.?[0..bytes],
    };
}

/// Which memory a session's inputs and outputs are.
pub const Binding = struct {
    raw: *RawBinding,
    session: Session,

    pub fn init(session: Session) Failure!Binding {
        return .{ .raw = try made(RawBinding, create_binding(), .{session.raw}), .session = session };
    }

    pub fn input(binding: Binding, name: [:0]const u8, value: *const Value) Failure!void {
        try check(bind_input()(binding.raw, name, value));
    }

    pub fn output(binding: Binding, name: [:0]const u8, value: *const Value) Failure!void {
        try check(bind_output()(binding.raw, name, value));
    }

    pub fn run(binding: Binding) Failure!void {
        try check(run_with_binding()(binding.session.raw, run_options, binding.raw));
    }
};

/// Calls a function whose last parameter receives what it makes.
fn made(comptime T: type, function: anytype, arguments: anytype) Failure!*T {
    var result: ?*T = null;
    try check(@call(.auto, function, arguments ++ .{&result}));
    return result orelse fail(error.Engine, "ONNX Runtime made nothing and named no error", .{});
}

/// Copies a string that the engine allocated, and frees it.
fn taken(arena: std.mem.Allocator, text: [*:0]u8) Failure![:0]const u8 {
    const copy = try arena.dupeSentinel(u8, std.mem.span(text), 0);
    try check(allocator_free()(allocator, text));
    return copy;
}

fn check(status: ?*Status) Failure!void {
    const reason = status orelse return;
    defer release_status()(reason);
    const text = std.mem.span(get_error_message()(reason));
    try signals.check(); // a step that we interrupted
    const failure: Failure = if (isMemory(text)) error.OutOfMemory else error.Engine;
    return fail(failure, "ONNX Runtime {}: {} (code {})", .{ version(), text, get_error_code()(reason) });
}

/// The C API has no code for it, and sometimes there is not even memory for the text.
fn isMemory(text: []const u8) bool {
    const signs = [_][]const u8{ "bad_alloc", "Failed to allocate memory", "bad alloc", "length_error" };
    for (signs) |sign| {
        if (std.mem.indexOf(u8, text, sign) != null) return true;
    }
    return sys.memoryIsShort();
}
