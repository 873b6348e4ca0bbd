// Continues a prompt with the expert that speaks a language, and shows the text as it comes.
//
//     c++ -std=c++17 -I include ffi/examples/generate.cpp libxelm.a -lpthread -lm -ldl
//     ./a.out RUN/set-q8_0 de "Am Morgen" 200
#include "common.hpp"

int main(int argc, char **argv) {
    if (argc != 5) {
        std::cerr << "usage: " << argv[0] << " SET LANGUAGE PROMPT N_TOKENS\n       " << argv[0]
                  << " EXPERT - PROMPT N_TOKENS\n";
        return 2;
    }
    return run([&] {
        const std::string_view prompt = argv[3];

        // The most probable token every time, but what has just been said is made rarer.
        xelm::Params params;
        params.repetition(1.1f);
        const xelm::Expert expert = open_model(params, argv[1], argv[2]);
        xelm::Session session(params, expert);

        std::cout << prompt;
        session.prefill_text(prompt);
        const auto [n_tokens, why] = session.generate(
            std::stoul(argv[4]),
            [](const xelm::Written &part) { std::cout << part.text << std::flush; });
        std::cout << '\n';
        std::cerr << n_tokens << (why == XELM_STOP_END ? " tokens to its end\n" : " tokens\n");
        return 0;
    });
}
