//! Signed notes (C2SP signed-note) and the Ed25519 keys that sign them.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, Verifier, VerifyingKey};
use thiserror::Error;

use crate::hash::{Hash, from_hex, to_hex};

/// Most bytes of a note; ours are a few hundred.
pub const MAX_NOTE_LEN: usize = 16 << 10;

/// Most signature lines that are looked at.
pub const MAX_SIGNATURES: usize = 64;

/// Most bytes of a key's name.
pub const MAX_KEY_NAME_LEN: usize = 128;

/// The signature type of Ed25519.
const ED25519: u8 = 1;

const SIGNATURE_MARK: &str = "\u{2014} ";
const SECRET_PREFIX: &str = "PRIVATE+KEY+";

/// A public key, as text `name+id+key`.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    name: String,
    key: VerifyingKey,
}

/// A secret key, as text `PRIVATE+KEY+name+id+key`. Printing it for debugging shows the public key.
#[derive(Clone)]
pub struct SecretKey {
    public: PublicKey,
    key: SigningKey,
}

/// A text that is no key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum KeyError {
    /// It has not the parts of a key.
    #[error("it is not of the form name+id+key")]
    Form,
    /// Its name is empty, too long, or holds what names may not.
    #[error("a key's name has 1 to 128 printable characters of ASCII, and neither space nor plus")]
    Name,
    /// The key is not one of Ed25519.
    #[error("it is not an Ed25519 key")]
    Algorithm,
    /// Its id is not that of its name and key.
    #[error("its id does not belong to its name and key")]
    Id,
}

impl PublicKey {
    /// Whose it is.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The first bytes of the hash over name and key.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        let hash = Hash::of(&[self.name.as_bytes(), b"\n", &[ED25519], self.key.as_bytes()]);
        let [a, b, c, d, ..] = hash.0;
        [a, b, c, d]
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = encode_key(self.key.as_bytes());
        write!(f, "{}+{}+{key}", self.name, to_hex(&self.id()))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PublicKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let (name, id, bytes) = parts(text)?;
        let key = VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Algorithm)?;
        // A weak key accepts signatures that its owner never made.
        if key.is_weak() {
            return Err(KeyError::Algorithm);
        }
        let public = Self { name, key };
        if public.id() != id {
            return Err(KeyError::Id);
        }
        Ok(public)
    }
}

impl SecretKey {
    /// A new key.
    pub fn draw(name: &str) -> Result<Self, DrawError> {
        check_name(name)?;
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        Ok(Self::from_seed(name.to_owned(), &seed))
    }

    /// The key that checks what this one signs.
    #[must_use]
    pub fn public(&self) -> &PublicKey {
        &self.public
    }

    /// The text that [`SecretKey::from_str`] reads. Whoever has it can sign.
    #[must_use]
    pub fn to_secret_text(&self) -> String {
        let (name, id) = (&self.public.name, to_hex(&self.public.id()));
        let seed = encode_key(self.key.as_bytes());
        format!("{SECRET_PREFIX}{name}+{id}+{seed}")
    }

    fn from_seed(name: String, seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        let public = PublicKey {
            name,
            key: key.verifying_key(),
        };
        Self { public, key }
    }

    fn signature_line(&self, text: &str) -> String {
        let mut bytes = self.public.id().to_vec();
        bytes.extend(self.key.sign(text.as_bytes()).to_bytes());
        let signature = STANDARD.encode(bytes);
        format!("{SIGNATURE_MARK}{} {signature}\n", self.public.name)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the secret of {}", self.public)
    }
}

impl FromStr for SecretKey {
    type Err = KeyError;

    fn from_str(text: &str) -> Result<Self, KeyError> {
        let rest = text.strip_prefix(SECRET_PREFIX).ok_or(KeyError::Form)?;
        let (name, id, seed) = parts(rest)?;
        let key = Self::from_seed(name, &seed);
        if key.public.id() != id {
            return Err(KeyError::Id);
        }
        Ok(key)
    }
}

/// Why there is no new key.
#[derive(Debug, Error)]
pub enum DrawError {
    /// The name.
    #[error(transparent)]
    Name(#[from] KeyError),
    /// The system gives no random bytes.
    #[error("the system gives no random bytes: {0}")]
    Random(#[from] getrandom::Error),
}

/// A text and the lines of those who signed it; nobody has checked any yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    text: String,
    signatures: Vec<(String, [u8; 4], Vec<u8>)>,
}

/// Bytes that are no note, or a note that is not signed by whom it should.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum NoteError {
    /// More bytes or signatures than allowed.
    #[error("it is larger than a note may be")]
    Size,
    /// Control characters, or not UTF-8.
    #[error("it holds control characters")]
    Characters,
    /// Text, blank line, signature lines: one is missing.
    #[error("it is not a text, an empty line and lines of signatures")]
    Form,
    /// No line is of a key that is trusted.
    #[error("no key that is trusted has signed it")]
    Unsigned,
    /// A line claims to be of a trusted key and is not.
    #[error("its signature is not that of the key it names")]
    Forged,
}

/// A text with the signatures of all `keys`. The text ends with a newline.
#[must_use]
pub fn sign(text: &str, keys: &[&SecretKey]) -> String {
    let lines: String = keys.iter().map(|key| key.signature_line(text)).collect();
    format!("{text}\n{lines}")
}

impl Note {
    /// Takes a note apart.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > MAX_NOTE_LEN {
            return Err(NoteError::Size);
        }
        if note.bytes().any(|byte| byte < b' ' && byte != b'\n') {
            return Err(NoteError::Characters);
        }
        let end = note.rfind("\n\n").ok_or(NoteError::Form)?;
        let (text, lines) = (note.get(..=end), note.get(end + 2..));
        let (text, lines) = text.zip(lines).ok_or(NoteError::Form)?;
        let lines = lines.strip_suffix('\n').ok_or(NoteError::Form)?;
        if lines.split('\n').count() > MAX_SIGNATURES {
            return Err(NoteError::Size);
        }
        let signatures: Option<Vec<_>> = lines.split('\n').map(signature).collect();
        Ok(Self {
            text: text.to_owned(),
            signatures: signatures.ok_or(NoteError::Form)?,
        })
    }

    /// The text, if this key has signed it.
    pub fn signed_by(&self, key: &PublicKey) -> Result<&str, NoteError> {
        let id = key.id();
        let mut lines = self
            .signatures
            .iter()
            .filter(|(name, line_id, _)| *name == key.name && *line_id == id)
            .peekable();
        if lines.peek().is_none() {
            return Err(NoteError::Unsigned);
        }
        for (_, _, signature) in lines {
            let signature = Signature::from_slice(signature).map_err(|_| NoteError::Forged)?;
            let verdict = key.key.verify(self.text.as_bytes(), &signature);
            verdict.map_err(|_| NoteError::Forged)?;
        }
        Ok(&self.text)
    }

    /// The text that somebody may have signed.
    #[must_use]
    pub fn unverified_text(&self) -> &str {
        &self.text
    }
}

fn signature(line: &str) -> Option<(String, [u8; 4], Vec<u8>)> {
    let (name, encoded) = line.strip_prefix(SIGNATURE_MARK)?.split_once(' ')?;
    if name.is_empty() || name.contains(|letter: char| letter == '+' || letter.is_whitespace()) {
        return None;
    }
    let bytes = STANDARD.decode(encoded).ok()?;
    let (id, signature) = bytes.split_first_chunk::<4>()?;
    Some((name.to_owned(), *id, signature.to_vec()))
}

fn check_name(name: &str) -> Result<(), KeyError> {
    let fits = (1..=MAX_KEY_NAME_LEN).contains(&name.len());
    let clean = name
        .bytes()
        .all(|byte| byte.is_ascii_graphic() && byte != b'+');
    if !(fits && clean) {
        return Err(KeyError::Name);
    }
    Ok(())
}

fn parts(text: &str) -> Result<(String, [u8; 4], [u8; 32]), KeyError> {
    let (name, rest) = text.split_once('+').ok_or(KeyError::Form)?;
    let (id, key) = rest.split_once('+').ok_or(KeyError::Form)?;
    check_name(name)?;
    let id = from_hex(id).ok_or(KeyError::Form)?;
    let key = STANDARD.decode(key).map_err(|_| KeyError::Form)?;
    let (&kind, key) = key.split_first().ok_or(KeyError::Form)?;
    let key: [u8; 32] = key.try_into().map_err(|_| KeyError::Algorithm)?;
    if kind != ED25519 {
        return Err(KeyError::Algorithm);
    }
    Ok((name.to_owned(), id, key))
}

fn encode_key(bytes: &[u8; 32]) -> String {
    let mut typed = vec![ED25519];
    typed.extend(bytes);
    STANDARD.encode(typed)
}

#[cfg(test)]
mod tests {
    use super::*;

    // The key and the note that the documentation of Go's package `golang.org/x/mod/sumdb/note` shows.
    const EXAMPLE_KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
    const EXAMPLE_NOTE: &str = "If you think cryptography is the answer to your problem,\n\
        then you don't know what your problem is.\n\
        \n\
        \u{2014} PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n";

    #[test]
    fn a_note_that_others_made_is_read_and_verified() {
        let key: PublicKey = EXAMPLE_KEY.parse().unwrap();
        assert_eq!(key.to_string(), EXAMPLE_KEY);
        let note = Note::parse(EXAMPLE_NOTE).unwrap();
        assert!(note.signed_by(&key).unwrap().starts_with("If you think"));
        let altered = EXAMPLE_NOTE.replace("answer", "Answer");
        let altered = Note::parse(&altered).unwrap();
        assert_eq!(altered.signed_by(&key), Err(NoteError::Forged));
    }

    #[test]
    fn what_was_signed_is_verified_and_nobody_elses_key_is_taken() {
        let [one, two, third] =
            ["example/log", "example/log", "example/other"].map(|n| SecretKey::draw(n).unwrap());
        let text = "example/log\n0\nroot\n";
        let note = sign(text, &[&one, &two]);
        let note = Note::parse(&note).unwrap();
        assert_eq!(note.signed_by(one.public()), Ok(text));
        assert_eq!(note.signed_by(two.public()), Ok(text));
        assert_eq!(note.signed_by(third.public()), Err(NoteError::Unsigned));
        let read: SecretKey = one.to_secret_text().parse().unwrap();
        assert_eq!(read.public(), one.public());
        assert!(!format!("{one:?}").contains(&encode_key(one.key.as_bytes())));
    }

    #[test]
    fn malformed_keys_and_notes_are_told_apart() {
        let key = EXAMPLE_KEY;
        for (text, error) in [
            ("a", KeyError::Form),
            ("+c74f20a3+ARpc2Q==", KeyError::Name),
            ("a b+c74f20a3+ARpc2Q==", KeyError::Name),
            ("a+c74f20a3+ARpc2Q==", KeyError::Algorithm),
            (&key.replace("PeterN", "PeterM"), KeyError::Id),
        ] {
            assert_eq!(text.parse::<PublicKey>(), Err(error), "{text}");
        }
        for (text, error) in [
            ("", NoteError::Form),
            ("text\n\nno signature\n", NoteError::Form),
            ("text\n\n\u{2014} name AAAA\n", NoteError::Form),
            ("te\txt\n\n\u{2014} name AAAAAA==\n", NoteError::Characters),
            (&"x".repeat(MAX_NOTE_LEN + 1), NoteError::Size),
        ] {
            assert_eq!(Note::parse(text), Err(error), "{text:?}");
        }
    }
}
