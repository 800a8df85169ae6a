//! Code images of arbitrary content, as a worker gets them: whole or refused, and what is whole has a bound of its
//! cost or is refused for having none.

#![no_main]

use idm_protocol::wire::image_kind;
use libfuzzer_sys::fuzz_target;
use vgpu_worker::{footprint, images};

fuzz_target!(|input: &[u8]| {
    let Some((kind, image)) = input.split_first() else {
        return;
    };
    let kind = [image_kind::PTX, image_kind::CUBIN, image_kind::FATBIN, 77][usize::from(kind % 4)];
    if let Ok(image) = images::check(kind, image.to_vec()) {
        let _ = footprint::bound(kind, &image, &[8, 9]);
    }
});
