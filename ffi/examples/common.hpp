// What the examples share: opening an expert, and errors that end the program.
#ifndef XELM_EXAMPLES_COMMON_HPP
#define XELM_EXAMPLES_COMMON_HPP

#include "xelm.hpp"

#include <iostream>

/// Opens the expert of the set in a folder that speaks a language; with the tag "-", an expert file.
inline xelm::Expert open_model(xelm::Params &params, std::string_view path, std::string_view tag) {
    if (tag == "-") return xelm::Expert(params, path);
    const xelm::Set set(params, path);
    const auto selected = set.select(tag);
    std::cerr << tag << ": the expert for " << selected.language
              << (selected.how == XELM_MATCH_RELATED ? ", its nearest relative\n" : "\n");
    // An expert may outlive its set.
    return xelm::Expert(params, set, selected.expert);
}

/// Runs an example; what it throws ends the program with a line on standard error.
template <class Example>
int run(Example example) {
    try {
        return example();
    } catch (const std::exception &error) {
        std::cerr << error.what() << '\n';
        return 1;
    }
}

#endif
