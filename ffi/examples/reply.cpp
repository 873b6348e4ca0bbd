// Goes on with every line of its input in the language of the line: the words choose the expert, or a tag
// does where a line begins with "lang: TAG ". At most one expert is open at a time. An interrupt from the
// keyboard ends the reply in progress, the end of the input the program.
//
//     c++ -std=c++17 -I include ffi/examples/reply.cpp libxelm.a -lpthread -lm -ldl
//     ./a.out RUN/set-q8_0 20
#include "common.hpp"

#include <algorithm>
#include <atomic>
#include <iomanip>
#include <optional>
#include <signal.h>

namespace {

/// The session that is replying.
std::atomic<xelm::Session *> replying;

void on_interrupt(int) {
    if (xelm::Session *session = replying) session->cancel();
}

/// A line, and the expert for it.
struct Request {
    std::string text;
    std::size_t expert;
};

/// Chooses the expert for a line, and says why.
Request choose(xelm::Params &params, const xelm::Set &set, const std::string &line) {
    const std::string prefix = "lang: ";
    if (line.compare(0, prefix.size(), prefix) == 0) {
        const std::size_t end = std::min(line.find(' ', prefix.size()), line.size());
        const std::string tag = line.substr(prefix.size(), end - prefix.size());
        const auto selected = set.select(tag);
        std::cerr << "expert " << selected.expert << ", which speaks " << selected.language
                  << ", for the tag " << tag << '\n';
        return {line.substr(std::min(line.find_first_not_of(' ', end), line.size())), selected.expert};
    }
    const std::vector<float> weights = set.route(params, line);
    const auto best = std::max_element(weights.begin(), weights.end());
    const auto expert = std::size_t(best - weights.begin());
    std::cerr << "expert " << expert << ", by its words, with the weight " << *best << '\n';
    return {line, expert};
}

/// The next line for which there is an expert.
std::optional<Request> next_request(xelm::Params &params, const xelm::Set &set) {
    for (std::string line; std::getline(std::cin, line);) {
        try {
            return choose(params, set, line);
        } catch (const xelm::Error &error) {
            std::cerr << error.what() << '\n';
            if (error.status() == XELM_NO_ROUTER) std::cerr << "begin the line with \"lang: TAG \"\n";
        }
    }
    return std::nullopt;
}

void reply(xelm::Session &session, const std::string &text, std::size_t n_tokens) {
    std::cout << text;
    replying = &session;
    try {
        session.reset();
        session.prefill_text(text);
        session.generate(n_tokens, [](const xelm::Written &part) {
            std::cout << part.text << std::flush;
        });
    } catch (const xelm::Error &error) {
        std::cerr << error.what() << '\n';
    }
    replying = nullptr;
    std::cout << std::endl;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 3) {
        std::cerr << "usage: " << argv[0] << " SET N_TOKENS\n";
        return 2;
    }
    return run([&] {
        struct sigaction action = {};
        action.sa_handler = on_interrupt;
        action.sa_flags = SA_RESTART;
        sigaction(SIGINT, &action, nullptr);
        std::cerr << std::fixed << std::setprecision(2);
        const std::size_t n_tokens = std::stoul(argv[2]);
        xelm::Params params;
        params.repetition(1.1f);
        const xelm::Set set(params, argv[1]);

        auto request = next_request(params, set);
        while (request) {
            const std::size_t index = request->expert;
            const xelm::Expert expert(params, set, index);
            xelm::Session session(params, expert);
            do {
                reply(session, request->text, n_tokens);
                request = next_request(params, set);
            } while (request && request->expert == index);
        }
        return 0;
    });
}
