#include "merge/align.h"

#include <ATen/ATen.h>

#include <limits>

#include "error.h"

namespace mixwright::merge {

std::vector<std::int64_t> assign(const at::Tensor& cost) {
    const at::Tensor costs = cost.to(at::kCPU, at::kDouble).contiguous();
    if (!costs.isfinite().all().item<bool>()) throw Error(ErrorCode::failed, "costs to align neurons by are not finite");
    const auto size = static_cast<std::size_t>(costs.size(0));
    const double* c = costs.const_data_ptr<double>();
    constexpr std::size_t none = static_cast<std::size_t>(-1);

    // Rows enter one by one; each finds the cheapest alternating path to a free column in the costs reduced by the dual
    // variables, which then move so that all assigned pairs stay tight.
    std::vector<double> row_dual(size, 0), column_dual(size, 0), distance(size);
    std::vector<std::size_t> row_of(size, none), came_from(size);
    std::vector<bool> visited(size);
    for (std::size_t start = 0; start < size; ++start) {
        std::fill(distance.begin(), distance.end(), std::numeric_limits<double>::infinity());
        std::fill(visited.begin(), visited.end(), false);
        std::size_t row = start, column = none;
        double reached = 0;
        while (true) {
            std::size_t next = none;
            for (std::size_t j = 0; j < size; ++j) {
                if (visited[j]) continue;
                const double through = reached + c[row * size + j] - row_dual[row] - column_dual[j];
                if (through < distance[j]) distance[j] = through, came_from[j] = column;
                if (next == none || distance[j] < distance[next]) next = j;
            }
            reached = distance[next];
            visited[next] = true;
            column = next;
            if (row_of[next] == none) break;
            row = row_of[next];
        }
        for (std::size_t j = 0; j < size; ++j) {
            if (!visited[j]) continue;
            const double slack = reached - distance[j];
            column_dual[j] -= slack;
            if (row_of[j] != none) row_dual[row_of[j]] += slack;
        }
        row_dual[start] += reached;
        for (std::size_t j = column; j != none;) {
            const std::size_t before = came_from[j];
            row_of[j] = before == none ? start : row_of[before];
            j = before;
        }
    }
    std::vector<std::int64_t> partner(size);
    for (std::size_t j = 0; j < size; ++j) partner[row_of[j]] = static_cast<std::int64_t>(j);
    return partner;
}

std::vector<std::int64_t> align(const at::Tensor& reference, const at::Tensor& other) {
    const auto unit = [](const at::Tensor& rows) {
        const at::Tensor f = rows.to(at::kFloat);
        return f / f.norm(2, {1}, true).clamp_min(1e-12);
    };
    return assign(-at::mm(unit(reference), unit(other).t()));
}

}  // namespace mixwright::merge
