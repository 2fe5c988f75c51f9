#include "train/curve.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "io/json.h"

namespace mixwright::train {
namespace {

struct Point {
    double step, value;
};
using Line = std::vector<Point>;

constexpr double width = 860, height = 340, left = 64, bottom = 36, top = 14;
constexpr std::size_t max_points = 1200;  // more than there are pixels only makes the page heavy

struct Frame {
    double last_step, low, high;
    double x(double step) const { return left + (width - left - 12) * step / last_step; }
    double y(double value) const { return top + (height - top - bottom) * (high - value) / (high - low); }
};

// The mean of each of at most max_points equal runs of points.
Line thinned(const Line& line) {
    const std::size_t run = (line.size() + max_points - 1) / max_points;
    if (run <= 1) return line;
    Line out;
    for (std::size_t begin = 0; begin < line.size(); begin += run) {
        const std::size_t end = std::min(begin + run, line.size());
        double sum = 0;
        for (std::size_t i = begin; i < end; ++i) sum += line[i].value;
        out.push_back({line[end - 1].step, sum / static_cast<double>(end - begin)});
    }
    return out;
}

std::string path(const Frame& frame, const Line& line, const char* style) {
    std::string points;
    for (const Point& p : thinned(line)) points += fmt::format("{:.1f},{:.1f} ", frame.x(p.step), frame.y(p.value));
    return fmt::format("<polyline class=\"{}\" points=\"{}\"/>\n", style, points);
}

// A step of 1, 2 or 5 times a power of ten that gives about five marks.
double tick_step(double span) {
    const double rough = span / 5, power = std::pow(10.0, std::floor(std::log10(rough)));
    return (rough / power < 1.5 ? 1 : rough / power < 3.5 ? 2 : rough / power < 7.5 ? 5 : 10) * power;
}

std::string axes(const Frame& frame) {
    std::string out;
    const double step = tick_step(frame.high - frame.low);
    for (double value = std::ceil(frame.low / step) * step; value <= frame.high; value += step)
        out += fmt::format("<line class=\"grid\" x1=\"{0}\" x2=\"{1}\" y1=\"{2:.1f}\" y2=\"{2:.1f}\"/><text x=\"{3}\" y=\"{4:.1f}\" text-anchor=\"end\">{5:.4g}</text>\n", left,
                           width - 12, frame.y(value), left - 8, frame.y(value) + 4, value);
    const double across = tick_step(frame.last_step);
    for (double at = 0; at <= frame.last_step; at += across)
        out += fmt::format("<text x=\"{:.1f}\" y=\"{}\" text-anchor=\"middle\">{:g}</text>\n", frame.x(at), height - 14, at);
    return out;
}

Frame frame_of(const std::vector<const Line*>& lines) {
    Frame frame{1, INFINITY, -INFINITY};
    for (const Line* line : lines)
        for (const Point& p : *line) {
            frame.last_step = std::max(frame.last_step, p.step);
            frame.low = std::min(frame.low, p.value);
            frame.high = std::max(frame.high, p.value);
        }
    if (!(frame.low < frame.high)) {
        frame.low = std::isfinite(frame.low) ? frame.low - 0.5 : 0;
        frame.high = frame.low + 1;
    }
    return frame;
}

std::string escaped(std::string_view text) {
    std::string out;
    for (const char c : text) {
        if (c == '<') out += "&lt;";
        else if (c == '&') out += "&amp;";
        else out += c;
    }
    return out;
}

std::string chart(std::string_view caption, const Line& line, const Line& marked) {
    const Frame frame = frame_of({&line, &marked});
    return fmt::format("<figure><figcaption>{}</figcaption><svg viewBox=\"0 0 {} {}\">\n{}{}{}</svg></figure>\n", caption, width, height, axes(frame),
                       path(frame, line, "loss"), marked.empty() ? "" : path(frame, marked, "eval"));
}

}  // namespace

std::string curve_page(std::string_view metrics, std::string_view title) {
    Line loss, eval, rate, load;
    for (std::size_t begin = 0; begin < metrics.size();) {
        const std::size_t end = std::min(metrics.find('\n', begin), metrics.size());
        const io::Json line = io::Json::parse(metrics.substr(begin, end - begin), nullptr, false);
        begin = end + 1;
        if (!line.is_object() || !line.contains("step")) continue;
        const auto take = [&](const char* key, Line& into) {
            if (line.contains(key) && line[key].is_number()) into.push_back({line["step"].get<double>(), line[key].get<double>()});
        };
        take("loss", loss);
        take("eval_loss", eval);
        take("lr", rate);
        take("largest_load", load);
    }
    std::string page = fmt::format(
        "<!doctype html>\n<meta charset=\"utf-8\"><title>{0}</title>\n<style>\nbody{{font:15px/1.5 system-ui,sans-serif;max-width:900px;margin:2em auto;padding:0 1em;color:#222;background:#fff}}\n"
        "figure{{margin:1.5em 0}}figcaption{{font-weight:600}}svg text{{font-size:12px;fill:#666}}polyline{{fill:none;stroke-width:1.6;stroke-linejoin:round}}\n"
        ".grid{{stroke:#ddd}}.loss{{stroke:#4c78a8}}.eval{{stroke:#d1495b;stroke-width:2.4}}\n"
        "@media(prefers-color-scheme:dark){{body{{color:#ddd;background:#16181c}}.grid{{stroke:#333}}svg text{{fill:#999}}}}\n</style>\n<h1>{0}</h1>\n",
        escaped(title));
    page += chart(eval.empty() ? "Training loss, nats a token" : "Loss, nats a token: training (blue), evaluation (red)", loss, eval);
    page += chart("Learning rate", rate, {});
    if (!load.empty()) page += chart("Largest load of an expert (1: balanced)", load, {});
    return page;
}

}  // namespace mixwright::train
