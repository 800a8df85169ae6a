//! The answer to cudart's self-test of the driver.
//!
//! cudart asks three times, with its version V, V + 1 and V + 2, and compares each answer with its
//! own. The last decimal digit picks the answer: two fixed values, or HMAC-MD2 over what both sides
//! can see. The HMAC (RFC 2104) is written out because RustCrypto's `hmac` does not take MD2.
#![forbid(unsafe_code)]

use super::DeviceIdentity;
use md2::{Digest, Md2};

/// MD2 works on blocks of 16 bytes (RFC 1319), and HMAC pads its key to one.
const BLOCK: usize = 16;

const KEY: [u8; BLOCK] = [
    0x14, 0x6a, 0xdd, 0xae, 0x53, 0xa9, 0xa7, 0x52, 0xaa, 0x08, 0x41, 0x36, 0x0b, 0xf5, 0x5a, 0x9f,
];

/// First words of the fixed answers; the second word is common to both.
const FIXED_0: u64 = 0x3341_181c_03cb_675c;
const FIXED_1: u64 = 0x1841_181c_03cb_675c;
const FIXED_TAIL: u64 = 0x8ed3_83aa_1f4c_d1e8;

/// What both sides can see and the answer covers, apart from the devices.
#[derive(Clone, Copy, Debug)]
pub(super) struct Question {
    pub driver_version: u32,
    /// The runtime's version, or that plus one or two.
    pub version: u32,
    pub pid: u32,
    /// Low half of `pthread_self`.
    pub thread: u32,
    pub cudart_table: u64,
    pub integrity_table: u64,
    pub check_function: u64,
    pub unix_seconds: u64,
}

pub(super) fn answer(question: &Question, devices: &[DeviceIdentity]) -> [u64; 2] {
    match question.version % 10 {
        0 => [FIXED_0, FIXED_TAIL],
        1 => [FIXED_1, FIXED_TAIL],
        _ => {
            let code = hmac_md2(&KEY, &message(question, devices));
            let (head, tail) = code.split_at(8);
            [word(head), word(tail)]
        }
    }
}

fn message(question: &Question, devices: &[DeviceIdentity]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(48 + 28 * devices.len());
    for half in [
        question.driver_version,
        question.version,
        question.pid,
        question.thread,
    ] {
        bytes.extend_from_slice(&half.to_le_bytes());
    }
    for word in [
        question.cudart_table,
        question.integrity_table,
        question.check_function,
        question.unix_seconds,
    ] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    for device in devices {
        bytes.extend_from_slice(&device.uuid);
        for id in [device.pci_domain, device.pci_bus, device.pci_device] {
            bytes.extend_from_slice(&id.to_le_bytes());
        }
    }
    bytes
}

fn hmac_md2(key: &[u8; BLOCK], message: &[u8]) -> [u8; BLOCK] {
    let inner = Md2::new()
        .chain_update(key.map(|byte| byte ^ 0x36))
        .chain_update(message)
        .finalize();
    Md2::new()
        .chain_update(key.map(|byte| byte ^ 0x5c))
        .chain_update(inner)
        .finalize()
        .into()
}

fn word(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The expected codes come from a separate Python program that builds MD2 from the text of RFC 1319
    // (its table from the digits of pi) and HMAC from RFC 2104, and meets the vectors below.

    #[test]
    fn md2_meets_the_vectors_of_rfc_1319() {
        for (message, digest) in [
            ("", "8350e5a3e24c153df2275c9f80692773"),
            ("a", "32ec01ec4a6dac72c0ab96fb34c0b5d1"),
            ("message digest", "ab4f496bfb2a530b219ff33031fe06b0"),
        ] {
            assert_eq!(hex(&Md2::digest(message)), digest, "{message:?}");
        }
    }

    #[test]
    fn hmac_equals_an_independent_computation() {
        let every_byte: Vec<u8> = (0..=u8::MAX).collect();
        assert_eq!(
            hex(&hmac_md2(&KEY, &[])),
            "f66b07aba4a875ea140c2cc013a41c6a"
        );
        assert_eq!(
            hex(&hmac_md2(&KEY, &every_byte)),
            "b532e203a55c7efc4277a072a1ea590d"
        );
    }

    #[test]
    fn answer_covers_the_process_the_tables_and_each_device() {
        assert_eq!(
            answer(&question(13052), &devices()),
            [0xdbaa_b293_1f71_be57, 0x6114_7535_825a_d776]
        );
        assert_eq!(
            answer(&question(13052), &[]),
            [0x8fb2_c701_d577_624e, 0xf617_4ab0_b1b3_a953]
        );
    }

    #[test]
    fn versions_ending_in_0_and_1_have_fixed_answers() {
        for version in [12090, 13000, 13050] {
            assert_eq!(
                answer(&question(version), &devices()),
                [FIXED_0, FIXED_TAIL]
            );
            assert_eq!(
                answer(&question(version + 1), &devices()),
                [FIXED_1, FIXED_TAIL]
            );
        }
    }

    fn question(version: u32) -> Question {
        Question {
            driver_version: 13050,
            version,
            pid: 4242,
            thread: 0x89ab_cdef,
            cudart_table: 0x1111,
            integrity_table: 0x2222,
            check_function: 0x3333,
            unix_seconds: 1_700_000_000,
        }
    }

    fn devices() -> [DeviceIdentity; 2] {
        let uuid = |first: u8| std::array::from_fn(|at| first + u8::try_from(at).unwrap());
        [
            DeviceIdentity {
                uuid: uuid(0),
                pci_domain: 0,
                pci_bus: 0x41,
                pci_device: 3,
            },
            DeviceIdentity {
                uuid: uuid(16),
                pci_domain: 1,
                pci_bus: 0x42,
                pci_device: -1,
            },
        ]
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }
}
