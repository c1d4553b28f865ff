//! The `done` line, which is result.json; and printing it once more where a job was done already.

const std = @import("std");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const Job = @import("job.zig").Job;
const Verb = @import("job.zig").Verb;
const messages = @import("messages.zig");
const sys = @import("sys.zig");
const Text = @import("text.zig").Text;
const formatted = @import("text.zig").formatted;

const Failure = failures.Failure;
const fail = failures.fail;
const Sha256 = std.crypto.hash.sha2.Sha256;

pub const name = "result.json";
pub const update_name = "update.safetensors";
pub const outputs_name = "outputs.safetensors";
const bytes_max = 1 << 30;

/// Times in milliseconds.
pub const Times = struct { start: u64 = 0, work: u64 = 0, write: u64 = 0 };

pub const ClientFacts = struct {
    id: []const u8,
    examples: u64,
    weight: f64 = 0,
    steps: u64 = 0,
    loss_first: f64 = 0,
    loss_last: f64 = 0,
    loss_before: ?f64 = null,
    loss_after: ?f64 = null,
    norm: f64 = 0,
    clipped: bool = false,
    ms: u64 = 0,
    metrics: [][2]f64, // sum and count
};

pub const Report = struct {
    job: *const Job,
    metrics: []const []const u8 = &.{}, // their names
    clients: []const ClientFacts = &.{},
    steps: u64 = 0,
    times: Times = .{},
    file: ?files.Written = null,
    peak_rss_kb: u64 = 0,

    fn write(report: *const Report, text: *Text) void {
        const verb = report.job.verb;
        text.raw("{\"type\":\"done\",\"job\":");
        text.string(report.job.id);
        if (verb != .run) {
            var examples: u64 = 0;
            var weight: f64 = 0;
            for (report.clients) |client| {
                examples += client.examples;
                weight += client.weight;
            }
            text.print(",\"examples\":{}", .{examples});
            if (verb == .train) {
                text.raw(",\"weight\":");
                text.number(weight);
            }
        }
        text.print(",\"peak_rss_kb\":{}", .{report.peak_rss_kb});
        if (verb != .run) text.print(",\"steps\":{}", .{report.steps});
        const times = report.times;
        text.print(",\"ms\":{\"start\":{},\"{}\":{},\"write\":{}}", .{ times.start, verb, times.work, times.write });
        if (report.file) |file| {
            text.print(",\"{}\":{\"file\":\"{}\"", .{ fileKey(verb), fileName(verb) });
            text.print(",\"bytes\":{},\"sha256\":\"{}\"}", .{ file.bytes, &file.sha256 });
        }
        if (verb != .run) {
            text.raw(",\"clients\":[");
            for (report.clients, 0..) |*client, i| {
                if (i > 0) text.raw(",");
                writeClient(text, client, verb == .train, report.metrics);
            }
            text.raw("]");
        }
        text.raw("}\n");
    }
};

fn fileKey(verb: Verb) []const u8 {
    return if (verb == .train) "update" else "outputs";
}

fn fileName(verb: Verb) [:0]const u8 {
    return if (verb == .train) update_name else outputs_name;
}

fn writeClient(text: *Text, client: *const ClientFacts, trained: bool, metrics: []const []const u8) void {
    text.raw("{\"client\":");
    text.string(client.id);
    text.print(",\"examples\":{}", .{client.examples});
    if (trained) {
        text.raw(",\"weight\":");
        text.number(client.weight);
        text.print(",\"steps\":{},\"loss_first\":", .{client.steps});
        text.number(client.loss_first);
        text.raw(",\"loss_last\":");
        text.number(client.loss_last);
        if (client.loss_before) |loss| {
            text.raw(",\"loss_before\":");
            text.number(loss);
        }
        if (client.loss_after) |loss| {
            text.raw(",\"loss_after\":");
            text.number(loss);
        }
        text.raw(",\"norm\":");
        text.number(client.norm);
        text.print(",\"clipped\":{}", .{client.clipped});
    }
    text.print(",\"ms\":{},\"metrics\":{", .{client.ms});
    for (metrics, client.metrics, 0..) |metric, numbers, i| {
        if (i > 0) text.raw(",");
        text.string(metric);
        text.raw(":{\"sum\":");
        text.number(numbers[0]);
        text.raw(",\"count\":");
        text.number(numbers[1]);
        text.raw("}");
    }
    text.raw("}}");
}

/// Writes result.json and says that the job is done.
pub fn publish(arena: *Arena, report: *Report) Failure!void {
    report.peak_rss_kb = sys.peakMemory();
    var count: Text = .{};
    report.write(&count);
    var text: Text = .{ .buffer = try arena.allocator().alloc(u8, count.length) };
    report.write(&text);
    std.debug.assert(text.length == count.length);
    const writer = try arena.allocator().create(files.Writer);
    try writer.create(name, try arena.allocator().alloc(u8, files.Writer.buffer_bytes));
    errdefer writer.abandon();
    try writer.write(text.written());
    _ = try writer.commit();
    try files.sync(".");
    try messages.line(text.written());
}

/// The line of a job that was done already. The caller must `files.unmap` it.
///
/// Null if there is none, or if it or what it speaks of is damaged: then the job is run again.
pub fn previous(job: *const Job) Failure!?[]const u8 {
    const line = files.mapIfThere(name, bytes_max) catch null orelse return null;
    if (isWhole(line, job) and try fileIsWhole(line, job)) return line;
    files.unmap(line);
    return null;
}

fn isWhole(line: []const u8, job: *const Job) bool {
    var buffer: [128]u8 = undefined;
    const start = formatted(&buffer, "{\"type\":\"done\",\"job\":\"{}\",", .{job.id});
    return std.mem.startsWith(u8, line, start) and std.mem.endsWith(u8, line, "}\n");
}

/// Whether the file that a line speaks of is there, with the content that it had.
fn fileIsWhole(line: []const u8, job: *const Job) Failure!bool {
    if (job.verb == .evaluate) return true;
    var buffer: [64]u8 = undefined;
    const key = formatted(&buffer, "\"{}\":{\"file\":\"", .{fileKey(job.verb)});
    const rest = after(line, key) orelse return false;
    const hash = after(rest, "\"sha256\":\"") orelse return false;
    if (hash.len < 64) return false;
    const file = files.mapIfThere(fileName(job.verb), std.math.maxInt(u64)) catch null orelse return false;
    defer files.unmap(file);
    var digest: [32]u8 = undefined;
    Sha256.hash(file, &digest, .{});
    return std.mem.eql(u8, &std.fmt.bytesToHex(digest, .lower), hash[0..64]);
}

fn after(text: []const u8, key: []const u8) ?[]const u8 {
    const start = std.mem.indexOf(u8, text, key) orelse return null;
    return text[start + key.len ..];
}
