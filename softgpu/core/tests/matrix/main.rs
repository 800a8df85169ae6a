//! Matrix instructions against scalar products.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap
)]

mod mma;
mod model;
#[path = "../support/mod.rs"]
mod support;
mod tiles;
mod wmma;

use softgpu_core::ptx;
use support::TARGET;

fn compile(body: &str) -> Result<(), String> {
    let text = format!(
        ".version 8.7\n.target sm_90\n.address_size 64\n.visible .entry k()\n{{\n\
        .reg .b32 %r<16>; .reg .f32 %f<16>; .reg .f64 %e<8>; .reg .b64 %x;\n{body}\nret;\n}}\n"
    );
    match ptx::compile(&text, &TARGET) {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    }
}

#[test]
fn modifiers_may_come_in_any_order() {
    for body in [
        "wmma.load.a.sync.aligned.m16n16k16.row.f16 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%x], 16;",
        "wmma.load.a.sync.row.m16n16k16.shared::cta.f16 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%x];",
        "wmma.mma.sync.aligned.row.col.m8n8k4.f64.f64.f64.f64.rz {%e0,%e1}, {%e2}, {%e3}, {%e4,%e5};",
        "mma.sync.aligned.m8n8k4.row.col.rz.f64.f64.f64.f64 {%e0,%e1}, {%e2}, {%e3}, {%e4,%e5};",
        "ldmatrix.sync.aligned.x1.trans.m8n8.shared.b16 {%r0}, [%x];",
        "stmatrix.sync.aligned.x1.m8n8.shared.b16 [%x], {%r0};",
    ] {
        compile(body).unwrap();
    }
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (body, reason) in [
        (
            "mma.sync.aligned.m16n8k8.row.row.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2}, {%f0,%f1,%f2,%f3};",
            "layouts",
        ),
        (
            "mma.sync.aligned.m16n8k32.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2}, {%f0,%f1,%f2,%f3};",
            "no such shape",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.bf16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2}, {%f0,%f1,%f2,%f3};",
            "do not go together",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1,%r3}, {%r2}, {%f0,%f1,%f2,%f3};",
            "fragment of 2 registers",
        ),
        (
            "mma.sync.aligned.m16n8k8.row.col.satfinite.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2}, {%f0,%f1,%f2,%f3};",
            "satfinite",
        ),
        (
            "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%f0,%f1,%f2,%f3}, {%r0,%r1}, {%r2,%r3}, {%f0,%f1,%f2,%f3}, %r4, 0;",
            "sparse",
        ),
        (
            "ldmatrix.sync.aligned.m8n16.x1.shared.b8x16.b6x16_p32 {%r0}, [%x];",
            "m8n8",
        ),
        (
            "ldmatrix.sync.aligned.m8n8.x3.shared.b16 {%r0,%r1,%r2}, [%x];",
            "one, two or four",
        ),
        (
            "wmma.load.a.sync.aligned.row.m16n16k8.f16 {%r0,%r1,%r2,%r3,%r4,%r5,%r6,%r7}, [%x];",
            "no such shape",
        ),
        (
            "wmma.load.a.sync.aligned.col.m8n8k32.s4 {%r0}, [%x];",
            ".row",
        ),
        ("wgmma.fence.sync.aligned;", "wgmma"),
    ] {
        let error = compile(body).expect_err(body);
        assert!(error.contains(reason), "{error} does not say {reason}");
    }
}
