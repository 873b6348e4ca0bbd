/* xelm in C++17: handles that own their memory and close themselves, errors as exceptions.
 *
 *     xelm::Params params;
 *     xelm::Set set(params, "RUN/set-q8_0");
 *     xelm::Expert expert(params, set, set.select("de").expert);
 *     xelm::Session session(params, expert);
 *     session.prefill_text("Am Morgen");
 *     session.generate(100, [](const xelm::Written &part) { std::cout << part.text; });
 *
 * The rules of xelm.h hold, where the functions are explained. What a handle was opened from must outlive
 * it: objects that are declared in that order are destroyed in the right one. Handles may be moved
 * meanwhile, but not copied; one that was moved from is an error to use.
 *
 * A handle takes its memory from the heap, or is given some of the caller's (xelm::Memory), and takes
 * nothing else; functions that return a std::string or a std::vector allocate that. An exception that a
 * callback throws leaves the function that was given the callback.
 */
#ifndef XELM_HPP
#define XELM_HPP

#include "xelm.h"

#include <cmath>
#include <exception>
#include <memory>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

namespace xelm {

/// A status other than XELM_OK, and what went wrong in words.
class Error : public std::runtime_error {
public:
    Error(xelm_status status, const char *text)
        : std::runtime_error(*text != '\0' ? text : xelm_status_text(status)), status_(status) {}
    xelm_status status() const noexcept { return status_; }

private:
    xelm_status status_;
};

/// Throws what is not XELM_OK.
inline void check(xelm_status status, const char *text = "") {
    if (status != XELM_OK) throw Error(status, text);
}

/// Memory that a handle lives in, aligned to XELM_ALIGN.
class Memory {
public:
    /// None: the handle takes from the heap what it needs.
    Memory() = default;
    explicit Memory(std::size_t size)
        : data_(::operator new(size, std::align_val_t{XELM_ALIGN}), Free{true}), size_(size) {}
    /// The caller's, whose it is again when the handle is gone.
    Memory(void *data, std::size_t size) noexcept : data_(data, Free{false}), size_(size) {}
    void *data() const noexcept { return data_.get(); }
    std::size_t size() const noexcept { return size_; }

private:
    struct Free {
        bool is_from_heap;
        void operator()(void *data) const noexcept {
            if (is_from_heap) ::operator delete(data, std::align_val_t{XELM_ALIGN});
        }
    };
    std::unique_ptr<void, Free> data_;
    std::size_t size_ = 0;
};

/// Options: each function sets what its namesake xelm_params_set_... does.
class Params {
public:
    Params() { xelm::check(xelm_params_init(&raw_, XELM_ABI_VERSION)); }
    Params &n_ctx(std::size_t n) { return set(xelm_params_set_n_ctx(&raw_, n)); }
    Params &n_batch(std::size_t n) { return set(xelm_params_set_n_batch(&raw_, n)); }
    Params &max_text(std::size_t bytes) { return set(xelm_params_set_max_text(&raw_, bytes)); }
    Params &n_threads(std::size_t n) { return set(xelm_params_set_n_threads(&raw_, n)); }
    Params &device(xelm_device device) { return set(xelm_params_set_device(&raw_, device)); }
#ifdef XELM_STD
    Params &n_lent(std::size_t n) { return set(xelm_params_set_n_lent(&raw_, n)); }
#endif
    Params &kv_type(xelm_kv_type type) { return set(xelm_params_set_kv_type(&raw_, type)); }
    Params &kv_budget(std::size_t bytes) { return set(xelm_params_set_kv_budget(&raw_, bytes)); }
    Params &full_output(bool full = true) { return set(xelm_params_set_full_output(&raw_, full)); }
    Params &sampling(float temperature, std::size_t top_k = 0, float top_p = 1, float min_p = 0,
                     std::uint64_t seed = 0) {
        return set(xelm_params_set_sampling(&raw_, temperature, top_k, top_p, min_p, seed));
    }
    Params &repetition(float penalty, std::size_t last = 64) {
        return set(xelm_params_set_repetition(&raw_, penalty, last));
    }
    Params &ensemble(std::size_t top_m, xelm_routing routing = XELM_ROUTE_TOKEN) {
        return set(xelm_params_set_ensemble(&raw_, top_m, routing));
    }
    Params &route(xelm_route_power power, float temperature, bool lag = false) {
        return set(xelm_params_set_route(&raw_, power, temperature, lag));
    }
    /// `on_log(xelm_log_level, const char *)` does not throw, and outlives all handles that are opened
    /// with these options.
    template <class F>
    Params &log(F &on_log) {
        const auto pass_on = [](void *user, xelm_log_level level, const char *text) noexcept {
            (*static_cast<F *>(user))(level, text);
        };
        return set(xelm_params_set_log(&raw_, pass_on, &on_log));
    }
    xelm_params *get() noexcept { return &raw_; }
    /// Throws what a function that took these options has returned, with its text.
    void check(xelm_status status) const { xelm::check(status, xelm_params_last_error(&raw_)); }

private:
    Params &set(xelm_status status) {
        check(status);
        return *this;
    }
    xelm_params raw_;
};

/// What handles have in common: their memory, and closing.
template <class T, xelm_status (*close)(T *)>
class Handle {
public:
    Handle(Handle &&other) noexcept
        : memory_(std::move(other.memory_)), raw_(std::exchange(other.raw_, nullptr)) {}
    Handle &operator=(Handle &&other) noexcept {
        if (this != &other) {
            if (raw_ != nullptr) close(raw_);
            memory_ = std::move(other.memory_);
            raw_ = std::exchange(other.raw_, nullptr);
        }
        return *this;
    }
    ~Handle() {
        if (raw_ != nullptr) close(raw_);
    }
    /// For functions of xelm.h.
    T *get() const noexcept { return raw_; }

protected:
    Handle() = default;
    /// Calls `open(params, inputs..., memory, its length, handle)`.
    template <class Open, class... Inputs>
    void open(Params &params, Memory memory, std::size_t size, Open open, Inputs... inputs) {
        memory_ = memory.data() != nullptr ? std::move(memory) : Memory(size);
        params.check(open(params.get(), inputs..., memory_.data(), memory_.size(), &raw_));
    }

private:
    Memory memory_;
    T *raw_ = nullptr;
};

/// A file in memory, at a multiple of 32. It outlives what is opened from it.
struct Bytes {
    const void *data;
    std::size_t len;
};

/// A file that is a part of an open file, such as an asset inside an APK.
struct Part {
    int fd;
    std::uint64_t offset;
    std::size_t len;
};

/// A set of experts. String views that it returns are valid while it is open.
class Set : public Handle<xelm_set, xelm_set_close> {
public:
    struct Language {
        std::string_view tag;
        std::size_t expert;
    };
    struct Entry {
        std::string_view id, file;
        bool is_present;
    };
    struct Selection {
        std::size_t expert;
        xelm_match how;
        std::string_view language;
    };

#ifdef XELM_STD
    Set(Params &params, std::string_view path, Memory memory = {}) {
        const std::size_t size = xelm_set_size(path.size());
        open(params, std::move(memory), size, xelm_set_open, path.data(), path.size());
    }
#endif
#ifdef XELM_UNIX
    Set(Params &params, Part file, Memory memory = {}) {
        const std::size_t size = xelm_set_size(0);
        open(params, std::move(memory), size, xelm_set_open_fd, file.fd, file.offset, file.len);
    }
#endif
    Set(Params &params, Bytes file, Memory memory = {}) {
        const std::size_t size = xelm_set_size(0);
        open(params, std::move(memory), size, xelm_set_open_bytes, file.data, file.len);
    }

    std::size_t n_experts() const noexcept { return xelm_set_n_experts(get()); }
    std::size_t n_languages() const noexcept { return xelm_set_n_languages(get()); }
    Language language(std::size_t index) const {
        const char *tag;
        std::size_t len, expert;
        check(xelm_set_language(get(), index, &tag, &len, &expert));
        return {{tag, len}, expert};
    }
    Entry expert(std::size_t index) const {
        const char *id, *file;
        std::size_t id_len, file_len;
        std::int32_t is_present;
        check(xelm_set_expert(get(), index, &id, &id_len, &file, &file_len, &is_present));
        return {{id, id_len}, {file, file_len}, is_present != 0};
    }
    Selection select(std::string_view tag, const std::uint8_t *present = nullptr) const {
        const char *language;
        std::size_t expert, len;
        xelm_match how;
        check(xelm_set_select(get(), tag.data(), tag.size(), present, &expert, &how, &language, &len));
        return {expert, how, {language, len}};
    }
#ifdef XELM_STD
    /// Throws where the file of expert `index` is damaged, or another one.
    void verify(Params &params, std::size_t index) const {
        params.check(xelm_set_verify(params.get(), get(), index));
    }
    void verify(Params &params, std::size_t index, std::string_view path) const {
        params.check(xelm_set_verify_path(params.get(), get(), index, path.data(), path.size()));
    }
#endif
    void verify(Params &params, std::size_t index, Bytes file) const {
        params.check(xelm_set_verify_bytes(params.get(), get(), index, file.data, file.len));
    }
    /// The weight of each expert for a text.
    std::vector<float> route(Params &params, std::string_view text,
                             const std::uint8_t *present = nullptr) const {
        const Memory scratch(xelm_set_route_size(get()));
        std::vector<float> weights(n_experts());
        params.check(xelm_set_route(params.get(), get(), text.data(), text.size(), present,
                                    scratch.data(), scratch.size(), weights.data()));
        return weights;
    }
};

/// An expert.
class Expert : public Handle<xelm_expert, xelm_expert_close> {
public:
#ifdef XELM_STD
    /// Expert `index` of a set in a folder. The set may be closed afterwards.
    Expert(Params &params, const Set &set, std::size_t index, Memory memory = {}) {
        const std::size_t size = plan_of(params, xelm_expert_plan, set.get(), index);
        open(params, std::move(memory), size, xelm_expert_open, set.get(), index);
    }
    Expert(Params &params, std::string_view path, Memory memory = {}) {
        const std::size_t size = plan_of(params, xelm_expert_plan_path, path.data(), path.size());
        open(params, std::move(memory), size, xelm_expert_open_path, path.data(), path.size());
    }
#endif
#ifdef XELM_UNIX
    Expert(Params &params, Part file, Memory memory = {}) {
        const auto [fd, offset, len] = file;
        const std::size_t size = plan_of(params, xelm_expert_plan_fd, fd, offset, len);
        open(params, std::move(memory), size, xelm_expert_open_fd, fd, offset, len);
    }
#endif
    Expert(Params &params, Bytes file, Memory memory = {}) {
        const std::size_t size = plan(params, file);
        open(params, std::move(memory), size, xelm_expert_open_bytes, file.data, file.len);
    }
    /// Bytes of memory that an expert in memory takes.
    static std::size_t plan(Params &params, Bytes file) {
        return plan_of(params, xelm_expert_plan_bytes, file.data, file.len);
    }

    std::size_t n_vocab() const noexcept { return xelm_expert_n_vocab(get()); }
    std::size_t n_ctx() const noexcept { return xelm_expert_n_ctx(get()); }
    std::size_t weight_bytes() const noexcept { return xelm_expert_weight_bytes(get()); }
    std::uint32_t end_token() const {
        std::uint32_t token;
        check(xelm_expert_end_token(get(), &token));
        return token;
    }
    /// Valid while the expert is open.
    std::string_view piece(std::uint32_t token) const {
        const char *piece;
        std::size_t len;
        check(xelm_expert_piece(get(), token, &piece, &len));
        return {piece, len};
    }
    std::size_t text_size(std::string_view text) const {
        std::size_t size;
        check(xelm_expert_text_size(get(), text.data(), text.size(), &size));
        return size;
    }

private:
    template <class Plan, class... Inputs>
    static std::size_t plan_of(Params &params, Plan plan, Inputs... inputs) {
        std::size_t size;
        params.check(plan(params.get(), inputs..., &size));
        return size;
    }
};

/// Experts of a set, weighed by its router.
class Ensemble : public Handle<xelm_ensemble, xelm_ensemble_close> {
public:
    /// `experts` has one pointer for each expert of the set, NULL for those that take no part.
    Ensemble(Params &params, const Set &set, const std::vector<const Expert *> &experts,
             Memory memory = {}) {
        std::vector<const xelm_expert *> raw;
        for (const Expert *expert : experts) raw.push_back(expert ? expert->get() : nullptr);
        const std::size_t size = xelm_ensemble_size(raw.size());
        open(params, std::move(memory), size, xelm_ensemble_open, set.get(), raw.data(), raw.size());
    }
};

/// Experts and their weights.
struct Experts {
    const xelm_active *data;
    std::size_t size;
    const xelm_active *begin() const noexcept { return data; }
    const xelm_active *end() const noexcept { return data + size; }
};

/// A part of a text that is being written, valid during the call of the callback.
struct Written {
    std::uint32_t token;
    std::string_view text;
    Experts experts;
};

/// How many tokens were written, and why no more: one of XELM_STOP_*.
struct Generated {
    std::size_t n_tokens;
    xelm_stop why;
};

/// A token of a text that is scored, valid during the call of the callback.
struct TokenScore {
    std::uint32_t token;
    double nll;
    Experts experts;
};

/// The negative log likelihood, in nats, of `n_tokens` tokens, which stand for `n_bytes` bytes.
struct Score {
    double nll;
    std::size_t n_tokens, n_bytes;
    double perplexity() const noexcept { return std::exp(nll / double(n_tokens)); }
    /// Of an empty text, as if it were one byte.
    double bits_per_byte() const noexcept {
        return nll / 0.693147180559945309 / double(n_bytes > 0 ? n_bytes : 1);
    }
};

/// One text in one expert, or in a mixture of an ensemble's.
class Session : public Handle<xelm_session, xelm_session_close> {
public:
    static xelm_plan plan(Params &params, const Expert &expert) {
        xelm_plan plan;
        params.check(xelm_session_plan(params.get(), expert.get(), &plan));
        return plan;
    }
    static xelm_plan plan(Params &params, const Ensemble &ensemble) {
        xelm_plan plan;
        params.check(xelm_session_plan_ensemble(params.get(), ensemble.get(), &plan));
        return plan;
    }
    Session(Params &params, const Expert &expert, Memory memory = {}) {
        const std::size_t size = plan(params, expert).total;
        open(params, std::move(memory), size, xelm_session_init, expert.get());
    }
    Session(Params &params, const Ensemble &ensemble, Memory memory = {}) {
        const std::size_t size = plan(params, ensemble).total;
        open(params, std::move(memory), size, xelm_session_init_ensemble, ensemble.get());
    }
    // These would be gone before the session is used.
    Session(Params &, const Expert &&, Memory = {}) = delete;
    Session(Params &, const Ensemble &&, Memory = {}) = delete;

    std::vector<std::uint32_t> tokenize(std::string_view text) {
        return list<std::uint32_t>(xelm_session_tokenize, text.data(), text.size());
    }
    void prefill(const std::uint32_t *ids, std::size_t n) { call(xelm_session_prefill, ids, n); }
    void prefill_text(std::string_view text) {
        call(xelm_session_prefill_text, text.data(), text.size());
    }
    /// Returns how many tokens needed not be read again.
    std::size_t prefill_text_again(std::string_view text) {
        return result<std::size_t>(xelm_session_prefill_text_again, text.data(), text.size());
    }
    /// One number for each entry of the vocabulary, valid until the next call with this session. An error
    /// where only the tokens of a shortlist have logits.
    const float *logits() {
        const float *logits;
        std::size_t n_vocab;
        call(xelm_session_logits, &logits, &n_vocab);
        return logits;
    }
    /// The logits of the tokens that have one; `ids` is null where all have. Valid as those of `logits`.
    struct Outputs {
        const float *logits;
        const std::uint32_t *ids;
        std::size_t n;
    };
    Outputs output_logits() {
        Outputs found;
        call(xelm_session_output_logits, &found.logits, &found.ids, &found.n);
        return found;
    }
    std::uint32_t next() { return result<std::uint32_t>(xelm_session_next); }
    void set_sampling(Params &params) {
        params.check(xelm_session_set_sampling(get(), params.get()));
    }

    /// `on_text(const Written &)` returns nothing, or whether to go on.
    template <class F>
    Generated generate(std::size_t n_max, F &&on_text) {
        Callback<F> callback{on_text, nullptr};
        const auto pass_on = [](void *user, const xelm_written *part) noexcept -> std::int32_t {
            const Written written{
                part->token, {part->text, part->text_len}, {part->experts, part->n_experts}};
            auto &[f, thrown] = *static_cast<Callback<F> *>(user);
            try {
                if constexpr (std::is_void_v<decltype(f(written))>) return f(written), 0;
                else return f(written) ? 0 : 1;
            } catch (...) {
                thrown = std::current_exception();
                return 1;
            }
        };
        Generated generated;
        const xelm_status status = xelm_session_generate(get(), n_max, pass_on, &callback,
                                                         &generated.n_tokens, &generated.why);
        callback.rethrow();
        done(status);
        return generated;
    }
    /// The text that is written.
    std::string generate(std::size_t n_max) {
        std::string text;
        generate(n_max, [&](const Written &part) { text += part.text; });
        return text;
    }

    Score score(std::string_view text) {
        return score(text, [](const TokenScore &) {});
    }
    /// Hands every token to `on_token(const TokenScore &)` as it is scored.
    template <class F>
    Score score(std::string_view text, F &&on_token) {
        Callback<F> callback{on_token, nullptr};
        const auto pass_on = [](void *user, const xelm_token_score *token) noexcept {
            auto &[f, thrown] = *static_cast<Callback<F> *>(user);
            if (thrown) return;
            try {
                f(TokenScore{token->token, token->nll, {token->experts, token->n_experts}});
            } catch (...) {
                thrown = std::current_exception();
            }
        };
        Score score;
        const xelm_status status =
            xelm_session_score_by_token(get(), text.data(), text.size(), pass_on, &callback,
                                        &score.nll, &score.n_tokens, &score.n_bytes);
        callback.rethrow();
        done(status);
        return score;
    }

    void reset() { call(xelm_session_reset); }
    void rewind(std::size_t n_past) { call(xelm_session_rewind, n_past); }
    std::size_t n_past() { return result<std::size_t>(xelm_session_n_past); }
    std::vector<std::uint32_t> tokens() { return list<std::uint32_t>(xelm_session_tokens); }
    std::size_t reuse_prefix(const std::uint32_t *ids, std::size_t n) {
        return result<std::size_t>(xelm_session_reuse_prefix, ids, n);
    }
    /// The experts of the last step and their weights.
    std::vector<xelm_active> experts() { return list<xelm_active>(xelm_session_experts); }
    std::vector<unsigned char> save() {
        std::vector<unsigned char> state(result<std::size_t>(xelm_session_state_size));
        result<std::size_t>(xelm_session_save, static_cast<void *>(state.data()), state.size());
        return state;
    }
    void restore(const void *state, std::size_t len) { call(xelm_session_restore, state, len); }

    /// For any thread, at any time.
    void cancel() noexcept { xelm_session_cancel(get()); }
#ifdef XELM_STD
    /// Lends the calling thread to the session.
    void worker_run() { check(xelm_session_worker_run(get())); }
    void end_workers() { check(xelm_session_end_workers(get())); }
#endif

private:
    /// A callback, and what it has thrown.
    template <class F>
    struct Callback {
        F &f;
        std::exception_ptr thrown;
        void rethrow() const {
            if (thrown) std::rethrow_exception(thrown);
        }
    };
    void done(xelm_status status) const { check(status, xelm_session_last_error(get())); }
    template <class Function, class... Arguments>
    void call(Function function, Arguments... arguments) {
        done(function(get(), arguments...));
    }
    /// What a function writes to its last argument.
    template <class T, class Function, class... Arguments>
    T result(Function function, Arguments... arguments) {
        T out;
        call(function, arguments..., &out);
        return out;
    }
    /// What a function writes to a buffer, after it has been asked how much that is.
    template <class T, class Function, class... Arguments>
    std::vector<T> list(Function function, Arguments... arguments) {
        std::vector<T> out(result<std::size_t>(function, arguments..., nullptr, 0));
        out.resize(result<std::size_t>(function, arguments..., out.data(), out.size()));
        return out;
    }
};

} // namespace xelm

#endif
