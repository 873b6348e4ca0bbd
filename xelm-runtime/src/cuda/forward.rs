//! The forward pass of XGLM on a card: which kernels, over which grids. What `crate::forward` computes, in the same
//! order.

use super::driver::{Arg, Driver, Function, Ptr};
use super::formats::FORMATS;
use super::plan::{Buffers, Part, Place, SITE};
use super::{CHUNK, WARPS};
use crate::cache::KvType;
use crate::config::{Activation, Config};
use crate::error::{Error, Result};
use crate::quant::BLOCK;
use core::ops::Range;
use std::vec::Vec;

/// Rows of weights and tokens that one warp multiplies where there are many tokens.
const MANY: (usize, usize) = (2, 8);
/// Tokens up to which one at a time is faster.
const FEW: usize = 2;

/// The kernels.
#[derive(Debug)]
struct Kernels {
    layer_norm: Function,
    quantize: Function,
    store: Function,
    attention: Function,
    attention_join: Function,
    /// By format: embedding, product with one token, with many.
    embed: [Function; FORMATS.len()],
    one: [Function; FORMATS.len()],
    many: [Function; FORMATS.len()],
}

/// A model on a card: its dimensions, its kernels, and where everything lies.
#[derive(Debug)]
pub(super) struct Forward {
    config: Config,
    n_experts: usize,
    n_ctx: usize,
    n_out: usize,
    kernels: Kernels,
    /// The formats of the matrices at every place.
    formats: Vec<u16>,
    table: Ptr,
    kv: Ptr,
    b: Buffers<Ptr>,
    /// The pass's lanes, tokens and first position, in the input.
    lanes: Ptr,
    tokens: Ptr,
    past: Ptr,
}

/// A product's operands: where activations are, as they are and in 8 bits, and where the result goes.
struct Product {
    place: Place,
    out: Ptr,
    x: Ptr,
    n_cols: usize,
    n_out: usize,
    after: Option<Activation>,
    /// Whether the result is added to what is there.
    add: bool,
}

/// Lanes and tokens of a pass.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) n_lanes: usize,
    pub(super) n: usize,
}

fn u32_of(n: usize) -> Arg {
    Arg::U32(n as u32)
}

impl Forward {
    pub(super) fn new(
        driver: &Driver,
        config: Config,
        n_experts: usize,
        n_ctx: usize,
        n_out: usize,
        kv_type: KvType,
        n_lanes: usize,
        formats: Vec<u16>,
        (table, kv, b): (Ptr, Ptr, Buffers<Ptr>),
    ) -> Result<Self> {
        let by_type = |f32, f16| driver.function(if kv_type == KvType::F32 { f32 } else { f16 });
        let by_format = |name: fn(usize) -> &'static core::ffi::CStr| {
            let mut functions = [driver.function(name(0))?; FORMATS.len()];
            for (i, function) in functions.iter_mut().enumerate() {
                *function = driver.function(name(i))?;
            }
            Ok::<_, Error>(functions)
        };
        let kernels = Kernels {
            layer_norm: driver.function(c"layer_norm")?,
            quantize: driver.function(c"quantize")?,
            store: by_type(c"store_f32", c"store_f16")?,
            attention: by_type(c"attention_f32", c"attention_f16")?,
            attention_join: driver.function(c"attention_join")?,
            embed: by_format(|i| FORMATS[i].embed)?,
            one: by_format(|i| FORMATS[i].one)?,
            many: by_format(|i| FORMATS[i].many)?,
        };
        let word = size_of::<u32>();
        let (past, lanes) = (b.input, b.input.offset(2 * word));
        let tokens = lanes.offset(2 * word * n_lanes);
        let forward = Forward {
            config,
            n_experts,
            n_ctx,
            n_out,
            kernels,
            formats,
            table,
            kv,
            b,
            lanes,
            tokens,
            past,
        };
        Ok(forward)
    }

    /// Queues a pass over the input through all layers, whose keys reach at most position `end`.
    pub(super) fn layers(
        &self,
        driver: &Driver,
        of: Extent,
        end: usize,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<()> {
        let Config { n_embd: c, n_ff: f, n_layer, activation, .. } = self.config;
        let b = &self.b;
        self.embed(driver, of)?;
        for layer in 0..n_layer {
            if cancelled() {
                return Err(Error::Cancelled);
            }
            let place = |part| Place::Layer(layer, part);
            let product = |part, out, x, n_cols, n_out, after, add| {
                let product = Product { place: place(part), out, x, n_cols, n_out, after, add };
                self.multiply(driver, of, &product)
            };
            let next = place(Part::AttnQkv);
            self.layer_norm(driver, of, place(Part::AttnNorm), next, 0..of.n)?;
            product(Part::AttnQkv, b.qkv, b.h, c, 3 * c, None, false)?;
            self.store(driver, of, layer)?;
            self.attention(driver, of, layer, end)?;
            product(Part::AttnOutput, b.x, b.att, c, c, None, true)?;

            let next = place(Part::FfnUp);
            self.layer_norm(driver, of, place(Part::FfnNorm), next, 0..of.n)?;
            product(Part::FfnUp, b.ff, b.h, c, f, Some(activation), false)?;
            self.quantize(driver, of, place(Part::FfnDown), b.ff, f)?;
            product(Part::FfnDown, b.x, b.ff, f, c, None, true)?;
        }
        Ok(())
    }

    /// Queues the logits of some rows of a pass.
    pub(super) fn head(&self, driver: &Driver, of: Extent, rows: Range<usize>) -> Result<()> {
        let (b, n) = (&self.b, rows.len());
        self.layer_norm(driver, of, Place::OutputNorm, Place::Head, rows)?;
        let product = Product {
            place: Place::Head,
            out: b.logits,
            x: b.h,
            n_cols: self.config.n_embd,
            n_out: self.n_out,
            after: None,
            add: false,
        };
        self.multiply(driver, Extent { n, ..of }, &product)
    }

    /// Where the kernels find what the experts have at a place.
    fn site(&self, place: Place) -> Arg {
        Arg::Ptr(self.table.offset(place.index() * self.n_experts * SITE))
    }

    /// The numbers of the formats that matrices at a place are in.
    fn formats(&self, place: Place) -> impl Iterator<Item = usize> + Clone {
        let bits = self.formats[place.index()];
        (0..FORMATS.len()).filter(move |i| bits >> i & 1 == 1)
    }

    /// Where activations in 8 bits for a place go, and their scales: nowhere if nothing there takes them; and the place.
    fn quants(&self, place: Place) -> [Arg; 3] {
        let takes = self.formats(place).any(|i| FORMATS[i].dtype.is_quantized());
        let [q, scales] = if takes { [self.b.q, self.b.scales] } else { [Ptr::NULL; 2] };
        [Arg::Ptr(q), Arg::Ptr(scales), self.site(place)]
    }

    /// layer, n_layer, n_head, n_ctx, head_dim.
    fn cache(&self, layer: usize) -> [Arg; 5] {
        let Config { n_layer, n_head, n_embd, .. } = self.config;
        [layer, n_layer, n_head, self.n_ctx, n_embd / n_head].map(u32_of)
    }

    fn embed(&self, driver: &Driver, Extent { n_lanes, n }: Extent) -> Result<()> {
        for i in self.formats(Place::Embed) {
            let args = [
                Arg::Ptr(self.b.x),
                self.site(Place::Embed),
                Arg::Ptr(self.lanes),
                Arg::Ptr(self.past),
                Arg::Ptr(self.tokens),
                u32_of(self.config.n_embd),
            ];
            driver.launch(self.kernels.embed[i], [n, n_lanes, 1], &args)?;
        }
        Ok(())
    }

    /// The norm of some rows of the residual stream, also in 8 bits where the next place takes them.
    fn layer_norm(
        &self,
        driver: &Driver,
        of: Extent,
        norm: Place,
        next: Place,
        rows: Range<usize>,
    ) -> Result<()> {
        let [q, scales, weights] = self.quants(next);
        let args = [
            Arg::Ptr(self.b.h),
            q,
            scales,
            weights,
            Arg::Ptr(self.b.x),
            self.site(norm),
            Arg::Ptr(self.lanes),
            u32_of(rows.start),
            u32_of(of.n),
            u32_of(self.config.n_embd),
            Arg::F32(self.config.norm_eps),
        ];
        driver.launch(self.kernels.layer_norm, [rows.len(), of.n_lanes, 1], &args)
    }

    /// Puts activations into 8 bits where the next place takes them so.
    fn quantize(
        &self,
        driver: &Driver,
        of: Extent,
        next: Place,
        x: Ptr,
        width: usize,
    ) -> Result<()> {
        let [q, scales, weights] = self.quants(next);
        if matches!(q, Arg::Ptr(Ptr::NULL)) {
            return Ok(());
        }
        let args = [q, scales, weights, Arg::Ptr(x), Arg::Ptr(self.lanes), u32_of(width)];
        driver.launch(self.kernels.quantize, [of.n, of.n_lanes, 1], &args)
    }

    /// A product with the weights of a place: one kernel for each format that experts have there.
    fn multiply(&self, driver: &Driver, Extent { n_lanes, n }: Extent, p: &Product) -> Result<()> {
        let after = match p.after {
            None => 0,
            Some(Activation::GeluErf) => 1,
            Some(Activation::GeluTanh) => 2,
            Some(Activation::Relu) => 3,
        };
        let (functions, (rows, tokens)) =
            if n <= FEW { (&self.kernels.one, (1, 1)) } else { (&self.kernels.many, MANY) };
        for i in self.formats(p.place) {
            let args = [
                Arg::Ptr(p.out),
                Arg::Ptr(p.x),
                Arg::Ptr(self.b.q),
                Arg::Ptr(self.b.scales),
                self.site(p.place),
                Arg::Ptr(self.lanes),
                u32_of(p.n_cols),
                u32_of(n),
                u32_of(p.n_out),
                Arg::U32(after),
                Arg::U32(p.add.into()),
            ];
            let grid = [p.n_out.div_ceil(WARPS * rows), n.div_ceil(tokens), n_lanes];
            driver.launch(functions[i], grid, &args)?;
        }
        Ok(())
    }

    fn store(&self, driver: &Driver, Extent { n_lanes, n }: Extent, layer: usize) -> Result<()> {
        let [a, b, c, d, e] = self.cache(layer);
        let (kv, qkv) = (Arg::Ptr(self.kv), Arg::Ptr(self.b.qkv));
        let args = [kv, qkv, Arg::Ptr(self.lanes), Arg::Ptr(self.past), a, b, c, d, e];
        driver.launch(self.kernels.store, [n, n_lanes, 1], &args)
    }

    fn attention(&self, driver: &Driver, of: Extent, layer: usize, end: usize) -> Result<()> {
        let Extent { n_lanes, n } = of;
        let Config { n_head, n_embd, .. } = self.config;
        let n_chunks = end.div_ceil(CHUNK);
        let [a, b, c, d, e] = self.cache(layer);
        let (parts, past) = (Arg::Ptr(self.b.parts), Arg::Ptr(self.past));
        let (qkv, kv, lanes) = (Arg::Ptr(self.b.qkv), Arg::Ptr(self.kv), Arg::Ptr(self.lanes));
        let args = [parts, qkv, kv, lanes, past, u32_of(n), u32_of(n_chunks), a, b, c, d, e];
        let grid = [n_chunks * n.div_ceil(WARPS), n_head, n_lanes];
        driver.launch(self.kernels.attention, grid, &args)?;

        let [q, scales, weights] = self.quants(Place::Layer(layer, Part::AttnOutput));
        let (out, head, width) = (Arg::Ptr(self.b.att), u32_of(n_head), u32_of(n_embd / n_head));
        let n_chunks = u32_of(n_chunks);
        let args = [out, q, scales, weights, parts, lanes, past, n_chunks, head, width];
        driver.launch(self.kernels.attention_join, [n, n_lanes, 1], &args)
    }
}

/// Activations per scale are those of the runtime's own kernels.
const _: () = assert!(BLOCK == 32);
