// xelm.hpp: what it adds to xelm.h. Arguments: an expert file, and the folder of a set of two experts.
#include "xelm.hpp"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <optional>

#define CHECK(condition)                                                                           \
    if (!(condition)) fail(__LINE__, #condition)

namespace {

[[noreturn]] void fail(int line, const char *what) {
    std::fprintf(stderr, "wrapper.cpp:%d: %s\n", line, what);
    std::exit(1);
}

/// The status that `work` throws.
template <class Work>
xelm_status thrown(Work work) {
    try {
        work();
    } catch (const xelm::Error &error) {
        CHECK(*error.what() != '\0');
        return error.status();
    }
    return XELM_OK;
}

static_assert(!std::is_copy_constructible_v<xelm::Session>);
static_assert(!std::is_copy_assignable_v<xelm::Expert>);
static_assert(std::is_nothrow_move_constructible_v<xelm::Session>);
static_assert(std::is_nothrow_move_assignable_v<xelm::Set>);
static_assert(!std::is_constructible_v<xelm::Session, xelm::Params &, xelm::Expert>);
static_assert(std::is_constructible_v<xelm::Session, xelm::Params &, xelm::Expert &>);

void errors(const char *path) {
    xelm::Params params;
    CHECK(thrown([&] { params.n_batch(0); }) == XELM_BAD_PARAMETER);
    CHECK(thrown([&] { xelm::Expert(params, "no/such/file"); }) == XELM_IO);
    try {
        xelm::Expert(params, "no/such/file");
    } catch (const std::exception &error) {
        CHECK(std::strstr(error.what(), "no/such/file") != nullptr);
    }
    const xelm::Expert expert(params, path);
    CHECK(expert.n_vocab() > 0 && expert.n_ctx() == 224 && expert.weight_bytes() > 0);
    CHECK(expert.piece(expert.end_token()) == "</s>");
    CHECK(expert.text_size("Am Morgen") > 9);
    CHECK(thrown([&] { expert.piece(1u << 30); }) == XELM_BAD_TOKEN);
    xelm::Session session(params, expert);
    CHECK(thrown([&] { session.next(); }) == XELM_BAD_PARAMETER);
    xelm::Session moved = std::move(session);
    CHECK(thrown([&] { session.reset(); }) == XELM_NULL);
    moved.reset();
}

/// Handles move, also in containers and in the wrong order, and close once.
void ownership(const char *path) {
    xelm::Params params;
    std::optional<xelm::Expert> expert;
    expert.emplace(params, path);
    std::vector<xelm::Session> sessions;
    for (int i = 0; i < 5; i++) sessions.emplace_back(params, *expert);
    sessions.erase(sessions.begin());
    for (auto &session : sessions) session.prefill_text("Am Morgen");
    const std::string text = sessions[0].generate(10);
    CHECK(!text.empty() && sessions[3].generate(10) == text);
    sessions[0] = xelm::Session(params, *expert);
    CHECK(sessions[0].n_past() == 0);
    sessions[0] = std::move(sessions[3]);
    CHECK(sessions[0].n_past() > 10);
    auto &same = sessions[0];
    sessions[0] = std::move(same);
    CHECK(sessions[0].n_past() > 10);
}

/// In memory of the caller's, nothing comes from the heap.
void memory(const char *path) {
    std::ifstream file(path, std::ios::binary);
    const std::string bytes((std::istreambuf_iterator<char>(file)), {});
    const xelm::Memory model(bytes.size());
    std::memcpy(model.data(), bytes.data(), bytes.size());
    const xelm::Bytes data{model.data(), bytes.size()};
    xelm::Params params;
    const xelm::Memory first(xelm::Expert::plan(params, data));
    const xelm::Expert expert(params, data, {first.data(), first.size()});
    const xelm_plan plan = xelm::Session::plan(params, expert);
    const xelm::Memory second(plan.total);
    CHECK(static_cast<void *>(expert.get()) == first.data());
    for (int i = 0; i < 2; i++) {
        xelm::Session session(params, expert, {second.data(), second.size()});
        CHECK(static_cast<void *>(session.get()) == second.data());
        session.prefill_text("Am Morgen");
        CHECK(!session.generate(5).empty());
    }
    const auto small = [&] { xelm::Session(params, expert, {second.data(), plan.total - 1}); };
    CHECK(thrown(small) == XELM_MEMORY_TOO_SMALL);
}

/// What a callback throws arrives, and the session goes on.
void callbacks(const char *path) {
    xelm::Params params;
    int n_said = 0;
    auto on_log = [&](xelm_log_level, const char *text) { n_said += *text != '\0'; };
    params.log(on_log).repetition(1.1f);
    const xelm::Expert expert(params, path);
    xelm::Session session(params, expert);
    CHECK(n_said == 2);

    session.prefill_text("Am Morgen");
    int n = 0;
    try {
        session.generate(10, [&](const xelm::Written &) {
            if (++n == 3) throw std::string("enough");
        });
        CHECK(false);
    } catch (const std::string &what) {
        CHECK(what == "enough" && n == 3);
    }
    session.reset();
    session.prefill_text("Am Morgen");
    const std::string expected = session.generate(10);
    session.reset();
    session.prefill_text("Am Morgen");
    std::string text;
    const auto [n_tokens, why] = session.generate(10, [&](const xelm::Written &part) {
        CHECK(part.experts.size == 1 && part.experts.begin()->weight == 1.0f);
        text += part.text;
        return text.size() < 5;
    });
    CHECK(why == XELM_STOP_CALLBACK && n_tokens < 10 && expected.compare(0, text.size(), text) == 0);

    // A function object of the caller's is used where it lies.
    struct Sum {
        double nats = 0;
        void operator()(const xelm::TokenScore &token) { nats += token.nll; }
    } sum;
    const xelm::Score score = session.score("My sister keeps", sum);
    CHECK(std::fabs(sum.nats - score.nll) < 1e-9 && score.n_bytes == 15);
    CHECK(session.score("My sister keeps").nll == score.nll);
    CHECK(std::fabs(score.bits_per_byte() * std::log(2.0) * 15 - score.nll) < 1e-9);
    n = 0;
    try {
        session.score("My sister keeps", [&](const xelm::TokenScore &) { throw ++n; });
        CHECK(false);
    } catch (int once) {
        CHECK(once == 1 && n == 1);
    }
    CHECK(session.score("").n_tokens == 1);
}

void states(const char *path) {
    xelm::Params params;
    params.sampling(0.9f, 30, 0.95f, 0, 7).n_threads(2);
    const xelm::Expert expert(params, path);
    xelm::Session session(params, expert), other(params, expert);
    const auto ids = session.tokenize("Am Morgen");
    CHECK(ids.size() > 1 && session.tokenize("").empty());
    session.prefill_text("Am Morgen");
    auto read = session.tokens();
    CHECK(read.size() == ids.size() + 1 && read[0] == expert.end_token() && read[1] == ids[0]);
    CHECK(session.experts().size() == 1);
    const auto state = session.save();
    const std::string expected = session.generate(20);
    other.restore(state.data(), state.size());
    CHECK(other.generate(20) == expected);
    CHECK(thrown([&] { other.restore(state.data(), 100); }) == XELM_FOREIGN_STATE);
    CHECK(session.prefill_text_again("Am Morgen war") >= 1);
    CHECK(session.reuse_prefix(read.data(), read.size()) == read.size() - 1);
    session.prefill(&read.back(), 1);
    CHECK(session.n_past() == read.size() && std::isfinite(session.logits()[0]));
    session.rewind(1);
    CHECK(session.tokens().size() == 1);
    session.cancel();
    CHECK(thrown([&] { session.prefill_text("Am Morgen"); }) == XELM_CANCELLED);
    session.prefill(ids.data(), ids.size());
    session.end_workers();
    params.sampling(0);
    session.set_sampling(params);
    CHECK(session.next() == session.next());
}

void sets(const char *folder) {
    xelm::Params params;
    params.ensemble(0, XELM_ROUTE_TOKEN).route(XELM_POWER_PAPER, 0.1f).kv_budget(0);
    xelm::Set opened(params, folder);
    const xelm::Set set = std::move(opened);
    CHECK(set.n_experts() == 2 && set.n_languages() == 4);
    CHECK(set.expert(1).id == "ja-ko" && set.expert(1).is_present);
    CHECK(set.expert(1).file == "ja-ko.gguf");
    const auto language = set.language(0);
    CHECK(set.select(language.tag).expert == language.expert);
    const auto selected = set.select("de-AT");
    CHECK(selected.language == "de" && selected.how == XELM_MATCH_PREFIX && selected.expert == 0);
    const std::uint8_t present[] = {0, 1};
    CHECK(set.select("de", present).expert == 1);
    CHECK(thrown([&] { (void)set.select("xx"); }) == XELM_NO_EXPERT);
    set.verify(params, 1);
    set.verify(params, 1, folder + std::string("/ja-ko.gguf"));
    const auto other = [&] { set.verify(params, 0, folder + std::string("/ja-ko.gguf")); };
    CHECK(thrown(other) == XELM_HASH_MISMATCH);
    const auto weights = set.route(params, "Am Morgen und die Nacht");
    CHECK(weights.size() == 2 && weights[0] > weights[1]);
    CHECK(set.route(params, "Am Morgen", present)[0] == 0);

    const xelm::Expert one(params, set, 0), two(params, set, 1);
    const xelm::Ensemble ensemble(params, set, {&one, &two});
    CHECK(xelm::Session::plan(params, ensemble).n_resident == 2);
    xelm::Session session(params, ensemble);
    session.prefill_text("Am Morgen");
    session.generate(3, [](const xelm::Written &part) {
        float sum = 0;
        for (const auto &[expert, weight] : part.experts) sum += expert < 2 ? weight : 2.0f;
        CHECK(part.experts.size == 2 && std::fabs(sum - 1) < 1e-6f);
    });
    CHECK(session.experts().size() == 2);
    CHECK(thrown([&] { xelm::Ensemble(params, set, {&one}); }) == XELM_EXPERTS_DIFFER);
}

} // namespace

int main(int, char **argv) {
    errors(argv[1]);
    ownership(argv[1]);
    memory(argv[1]);
    callbacks(argv[1]);
    states(argv[1]);
    sets(argv[2]);
    return 0;
}
