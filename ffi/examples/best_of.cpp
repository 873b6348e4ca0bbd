// Scores texts with the expert that speaks a language and prints them, the most probable first.
//
//     c++ -std=c++17 -I include ffi/examples/best_of.cpp libxelm.a -lpthread -lm -ldl
//     ./a.out RUN/set-q8_0 de "Am Morgen ist es hell." "Am Morgen hell es ist."
#include "common.hpp"

#include <algorithm>
#include <iomanip>

int main(int argc, char **argv) {
    if (argc < 4) {
        std::cerr << "usage: " << argv[0] << " SET LANGUAGE TEXT...\n       " << argv[0]
                  << " EXPERT - TEXT...\n";
        return 2;
    }
    return run([&] {
        xelm::Params params;
        const xelm::Expert expert = open_model(params, argv[1], argv[2]);
        xelm::Session session(params, expert);

        std::vector<std::pair<double, std::string_view>> scored;
        for (const std::string_view text : std::vector<std::string_view>(argv + 3, argv + argc)) {
            scored.emplace_back(session.score(text).bits_per_byte(), text);
        }
        // The lower the better; equals stay in their order.
        const auto better = [](const auto &a, const auto &b) { return a.first < b.first; };
        std::stable_sort(scored.begin(), scored.end(), better);
        for (const auto &[bits_per_byte, text] : scored) {
            std::cout << std::fixed << std::setprecision(4) << bits_per_byte << "  " << text << '\n';
        }
        return 0;
    });
}
