// Mixes the two experts of a set that suit a text best at every token. Shows how improbable each token
// of the text is, in nats, and which experts predicted it with what weights; then goes on with the text.
//
//     c++ -std=c++17 -I include ffi/examples/mixed.cpp libxelm.a -lpthread -lm -ldl
//     ./a.out RUN/set-q8_0 "Am Morgen sagte sie: good morning" 20
#include "common.hpp"

#include <iomanip>
#include <optional>

int main(int argc, char **argv) {
    if (argc != 4) {
        std::cerr << "usage: " << argv[0] << " SET TEXT N_TOKENS\n";
        return 2;
    }
    return run([&] {
        const std::string_view text = argv[2];
        xelm::Params params;
        params.ensemble(2).repetition(1.1f);

        // All experts that are present.
        const xelm::Set set(params, argv[1]);
        std::vector<std::optional<xelm::Expert>> experts(set.n_experts());
        std::vector<const xelm::Expert *> members(set.n_experts());
        const xelm::Expert *any = nullptr;
        for (std::size_t i = 0; i < experts.size(); i++) {
            if (set.expert(i).is_present) any = members[i] = &experts[i].emplace(params, set, i);
        }
        const xelm::Ensemble ensemble(params, set, members);
        xelm::Session session(params, ensemble);

        const auto print_token = [&](std::uint32_t token, const auto &active) {
            for (const auto &[expert, weight] : active) {
                std::cout << "  " << set.expert(expert).id << ' ' << std::setprecision(2) << weight;
            }
            std::cout << "  " << any->piece(token) << '\n';
        };
        std::cout << std::fixed;
        const xelm::Score score = session.score(text, [&](const xelm::TokenScore &scored) {
            std::cout << std::setw(7) << std::setprecision(3) << scored.nll;
            print_token(scored.token, scored.experts);
        });
        std::cout << score.n_tokens << " tokens, " << score.n_bytes << " bytes, "
                  << std::setprecision(3) << score.nll << " nats\n";

        // The text has been read already.
        session.prefill_text_again(text);
        for (auto n = std::stoul(argv[3]); n > 0; n--) {
            const std::uint32_t token = session.next();
            print_token(token, session.experts());
            session.prefill(&token, 1);
        }
        return 0;
    });
}
