//! Routing by words, offline: fitting the vectoriser, the projection and the centroids of
//! [`xelm_runtime::router`], and clustering documents with them.

mod balanced;
mod kmeans;
mod sparse;
mod svd;
