#include "merge/zipit.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <queue>

#include "error.h"

namespace mixwright::merge {
namespace {

constexpr float never = -std::numeric_limits<float>::infinity();

class Zipper {
public:
    Zipper(const at::Tensor& similarity, std::int64_t count, const ZipItOptions& options)
        : sims_(similarity.to(at::kCPU, at::kFloat).clone().contiguous()), s_(sims_.mutable_data_ptr<float>()),
          size_(static_cast<std::size_t>(similarity.size(0))), options_(options), version_(size_, 0), alive_(size_, true) {
        const auto models = static_cast<std::size_t>(options.models);
        budget_.assign(models, static_cast<std::int64_t>(static_cast<double>((std::ssize(alive_) - count) / options.models) * options.beta + 1e-4));
        for (std::size_t i = 0; i < size_; ++i) {
            origin_.push_back(i / (size_ / models));
            held_.push_back(std::vector<bool>(models, false));
            held_[i][origin_[i]] = true;
            members_.push_back({static_cast<std::int64_t>(i)});
            at(i, i) = never;
        }
        for (std::size_t m = 0; m < models; ++m)
            if (budget_[m] <= 0) forbid_inside(m);
        for (std::size_t i = 0; i < size_; ++i) find_best(i);
    }

    // The features left, once `count` are.
    std::vector<std::vector<std::int64_t>> run(std::int64_t count) {
        for (std::int64_t left = std::ssize(alive_); left > count; --left) {
            const auto [row, column] = best_pair();
            merge(row, column);
        }
        std::vector<std::vector<std::int64_t>> groups;
        for (std::size_t i = 0; i < size_; ++i)
            if (alive_[i]) {
                std::ranges::sort(members_[i]);
                groups.push_back(std::move(members_[i]));
            }
        return groups;
    }

private:
    // A row's best partner among later rows, as it was when pushed: stale once the row's version moved on.
    struct Candidate {
        float similarity;
        std::size_t row, column, version;
        // The largest similarity first, then the first row and column, as an argmax over the matrix would have it.
        bool operator<(const Candidate& other) const {
            if (similarity != other.similarity) return similarity < other.similarity;
            return std::pair(row, column) > std::pair(other.row, other.column);
        }
    };

    float& at(std::size_t i, std::size_t j) { return s_[i * size_ + j]; }

    void find_best(std::size_t i) {
        const float* row = s_ + i * size_;
        float best = never;
        std::size_t column = size_;
        for (std::size_t j = i + 1; j < size_; ++j)
            if (row[j] > best) best = row[j], column = j;  // merged-away columns stand at never
        best_column_.resize(size_, size_);
        best_column_[i] = column;
        ++version_[i];
        if (column < size_) heap_.push({best, i, column, version_[i]});
    }

    std::pair<std::size_t, std::size_t> best_pair() {
        while (!heap_.empty()) {
            const Candidate top = heap_.top();
            heap_.pop();
            if (alive_[top.row] && top.version == version_[top.row]) return {top.row, top.column};
        }
        throw Error(ErrorCode::failed, "no features are left that may be merged", "use a larger --alpha or --beta, or keep more");
    }

    void merge(std::size_t row, std::size_t column) {
        alive_[column] = false;
        members_[row].insert(members_[row].end(), members_[column].begin(), members_[column].end());
        for (std::size_t m = 0; m < budget_.size(); ++m)
            if (held_[column][m]) held_[row][m] = true;

        // Complete linkage: the merged feature is as near to another as the farther of its two parts.
        const auto alpha = static_cast<float>(options_.alpha);
        for (std::size_t j = 0; j < size_; ++j) {
            float& similarity = at(row, j);
            similarity = j == row ? never : std::min(similarity, at(column, j));
            if (options_.alpha > 0)
                similarity *= alpha;
            else if (shares_model(row, j))
                similarity = never;
            at(j, row) = similarity;
            at(j, column) = at(column, j) = never;
        }
        const std::size_t model = origin_[row];
        bool forbidden = false;
        if (origin_[column] == model && --budget_[model] <= 0) forbid_inside(model), forbidden = true;
        for (std::size_t i = 0; i < size_; ++i)
            if (alive_[i] && (i == row || forbidden || best_column_[i] == row || best_column_[i] == column || row_improves(i, row)))
                find_best(i);
    }

    // With alpha a negative similarity can grow when it is multiplied.
    bool row_improves(std::size_t i, std::size_t row) {
        if (i >= row) return false;
        return best_column_[i] == size_ ? at(i, row) > never : at(i, row) >= at(i, best_column_[i]);
    }

    bool shares_model(std::size_t i, std::size_t j) const {
        for (std::size_t m = 0; m < budget_.size(); ++m)
            if (held_[i][m] && held_[j][m]) return true;
        return false;
    }

    void forbid_inside(std::size_t model) {
        for (std::size_t i = 0; i < size_; ++i)
            for (std::size_t j = 0; j < size_; ++j)
                if (origin_[i] == model && origin_[j] == model) at(i, j) = never;
    }

    at::Tensor sims_;
    float* s_;  // [O, O]
    std::size_t size_;
    ZipItOptions options_;
    std::vector<std::size_t> version_, origin_, best_column_;
    std::vector<bool> alive_;
    std::vector<std::vector<bool>> held_;  // [feature][model]: whether it holds a feature of that model
    std::vector<std::int64_t> budget_;     // merges inside each model still allowed
    std::vector<std::vector<std::int64_t>> members_;
    std::priority_queue<Candidate> heap_;
};

}  // namespace

std::vector<std::vector<std::int64_t>> zipit_groups(const at::Tensor& similarity, std::int64_t count, const ZipItOptions& options) {
    const std::int64_t features = similarity.size(0);
    if (options.models < 1 || features % options.models != 0)
        throw Error(ErrorCode::usage, fmt::format("{} features are not those of {} models of one width", features, options.models));
    if (count < 1 || count > features) throw Error(ErrorCode::usage, fmt::format("cannot merge {} features into {}", features, count));
    return Zipper(similarity, count, options).run(count);
}

at::Tensor correlation(const at::Tensor& second_moment, const at::Tensor& mean) {
    const at::Tensor covariance = second_moment - at::outer(mean, mean);
    const at::Tensor deviation = covariance.diagonal().clamp_min(0).sqrt();
    return covariance / at::outer(deviation, deviation).clamp_min(1e-12);
}

at::Tensor merge_matrix(const std::vector<std::vector<std::int64_t>>& groups, std::int64_t features) {
    const at::Tensor copies = unmerge_matrix(groups, features);
    return (copies / copies.sum(0, true)).t().contiguous();
}

at::Tensor unmerge_matrix(const std::vector<std::vector<std::int64_t>>& groups, std::int64_t features) {
    at::Tensor matrix = at::zeros({features, std::ssize(groups)}, at::kDouble);
    auto m = matrix.accessor<double, 2>();
    for (std::size_t g = 0; g < groups.size(); ++g)
        for (const std::int64_t feature : groups[g]) m[feature][static_cast<std::int64_t>(g)] = 1;
    return matrix;
}

}  // namespace mixwright::merge
