//! Walks a TOML document and collects mistakes instead of stopping at the first.
//!
//! The configuration and the policy are both read this way.

#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// One thing wrong in a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Line in the file, from 1.
    pub line: usize,
    /// The key, with the path to it, such as `zone[0].memory`; empty if the line is no TOML.
    pub key: String,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// All of them, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistakes {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub list: Vec<Mistake>,
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (
            index,
            Mistake {
                line,
                key,
                problem,
                remedy,
            },
        ) in self.list.iter().enumerate()
        {
            let newline = if index == 0 { "" } else { "\n" };
            let separator = if key.is_empty() { "" } else { ": " };
            let file = self.file.display();
            write!(
                f,
                "{newline}{file}:{line}: {key}{separator}{problem}; {remedy}"
            )?;
        }
        Ok(())
    }
}

impl std::error::Error for Mistakes {}

/// Knows the text, so that it can tell lines, and keeps the mistakes.
#[derive(Debug)]
pub struct Reader<'s> {
    source: &'s str,
    mistakes: Vec<Mistake>,
}

/// A table whose keys are taken one by one; what is left in the end is unknown.
#[derive(Debug)]
pub struct Section<'s> {
    path: String,
    at: usize,
    entries: Vec<(String, usize, Spanned<DeValue<'s>>)>,
    asked: Vec<&'static str>,
    taken: Vec<&'static str>,
}

/// A value, and where it stands.
#[derive(Debug)]
pub struct Item<'s> {
    /// Its full name.
    pub key: String,
    /// Where it stands in the text.
    pub at: usize,
    /// The value.
    pub value: DeValue<'s>,
}

impl<'s> Reader<'s> {
    /// Begins to read a document: the reader, and the keys of the outermost table.
    #[must_use]
    pub fn open(source: &'s str) -> (Self, Section<'s>) {
        let (document, errors) = DeTable::parse_recoverable(source);
        let mut reader = Self {
            source,
            mistakes: Vec::new(),
        };
        for error in errors {
            let at = error.span().map_or(0, |span| span.start);
            let text = error.message().replace('\n', ", ");
            reader.mistake(
                at,
                "",
                text,
                "see https://toml.io for how a line is written",
            );
        }
        let section = Section::new(String::new(), document);
        (reader, section)
    }

    /// The line in which something stands, from 1.
    #[must_use]
    pub fn line(&self, at: usize) -> usize {
        let before = self.source.as_bytes().iter().take(at);
        1 + before.filter(|&&byte| byte == b'\n').count()
    }

    /// Notes a mistake.
    pub fn mistake(
        &mut self,
        at: usize,
        key: &str,
        problem: impl Into<String>,
        remedy: impl Into<String>,
    ) {
        self.mistakes.push(Mistake {
            line: self.line(at),
            key: key.to_owned(),
            problem: problem.into(),
            remedy: remedy.into(),
        });
    }

    /// Complains that a key is not there, unless it may be in what could not be read.
    pub fn missing(&mut self, at: usize, key: &str, problem: &str, remedy: &str) {
        if self.unreadable_lines().is_empty() {
            self.mistake(at, key, problem, remedy);
        }
    }

    fn unreadable_lines(&self) -> Vec<usize> {
        let unreadable = self
            .mistakes
            .iter()
            .filter(|mistake| mistake.key.is_empty());
        unreadable.map(|mistake| mistake.line).collect()
    }

    /// What was read, unless there was a mistake.
    ///
    /// # Errors
    /// All mistakes, in the order of the file.
    pub fn finish<T>(mut self, file: &Path, read: T) -> Result<T, Mistakes> {
        if self.mistakes.is_empty() {
            return Ok(read);
        }
        // A line that is no TOML was not read as what it was meant to be; what else is said about it is noise.
        let unreadable = self.unreadable_lines();
        self.mistakes
            .retain(|mistake| mistake.key.is_empty() || !unreadable.contains(&mistake.line));
        self.mistakes.sort_by_key(|mistake| mistake.line);
        Err(Mistakes {
            file: file.to_owned(),
            list: self.mistakes,
        })
    }

    /// Takes a key's value, if it is there.
    pub fn take(section: &mut Section<'s>, key: &'static str) -> Option<Item<'s>> {
        section.asked.push(key);
        let index = section.entries.iter().position(|(name, ..)| name == key)?;
        let (name, at, value) = section.entries.swap_remove(index);
        section.taken.push(key);
        Some(Item {
            key: section.key(&name),
            at,
            value: value.into_inner(),
        })
    }

    /// Takes a sub-table; an absent one is an empty one.
    pub fn table(&mut self, section: &mut Section<'s>, key: &'static str) -> Section<'s> {
        let empty = || {
            Section::new(
                section_path(&section.path, key),
                Spanned::new(0..0, DeTable::new()),
            )
        };
        let empty = empty();
        let Some(item) = Self::take(section, key) else {
            return empty;
        };
        match item.value {
            DeValue::Table(table) => Section::new(item.key, Spanned::new(item.at..item.at, table)),
            other => {
                let problem = format!("is {} and should be a table", article(other.type_str()));
                self.mistake(
                    item.at,
                    &item.key,
                    problem,
                    format!("write [{}] on a line of its own", item.key),
                );
                empty
            }
        }
    }

    /// Takes an array of tables.
    pub fn tables(&mut self, section: &mut Section<'s>, key: &'static str) -> Vec<Section<'s>> {
        let Some(item) = Self::take(section, key) else {
            return Vec::new();
        };
        let remedy = format!("write [[{key}]] on a line of its own before each one's keys");
        let DeValue::Array(array) = item.value else {
            let problem = format!(
                "is {} and should be a list of tables",
                article(item.value.type_str())
            );
            self.mistake(item.at, &item.key, problem, remedy);
            return Vec::new();
        };
        let mut sections = Vec::new();
        for (index, element) in array.into_iter().enumerate() {
            let (key, span) = (format!("{}[{index}]", item.key), element.span());
            match element.into_inner() {
                DeValue::Table(table) => {
                    sections.push(Section::new(key, Spanned::new(span, table)))
                }
                other => {
                    let problem = format!("is {} and should be a table", article(other.type_str()));
                    self.mistake(span.start, &key, problem, remedy.clone());
                }
            }
        }
        sections
    }

    /// Takes a text.
    pub fn text(
        &mut self,
        section: &mut Section<'s>,
        key: &'static str,
        like: &str,
    ) -> Option<(Item<'s>, String)> {
        let item = Self::take(section, key)?;
        match &item.value {
            DeValue::String(text) => {
                let text = text.to_string();
                Some((item, text))
            }
            other => {
                let problem = format!(
                    "is {} and should be a text in quotes",
                    article(other.type_str())
                );
                self.mistake(item.at, &item.key, problem, format!("write it like {like}"));
                None
            }
        }
    }

    /// Takes one of some words.
    pub fn word<T: Copy>(
        &mut self,
        section: &mut Section<'s>,
        key: &'static str,
        words: &[(&'static str, T)],
    ) -> Option<T> {
        let all: Vec<String> = words
            .iter()
            .map(|(word, _)| format!("\"{word}\""))
            .collect();
        let (item, text) = self.text(section, key, &all[0])?;
        let found = words
            .iter()
            .find(|(word, _)| *word == text)
            .map(|&(_, value)| value);
        if found.is_none() {
            self.mistake(
                item.at,
                &item.key,
                format!("{text:?} is not known"),
                format!("write one of {}", all.join(", ")),
            );
        }
        found
    }

    /// Takes a whole number within bounds.
    pub fn number(
        &mut self,
        section: &mut Section<'s>,
        key: &'static str,
        bounds: Range<u64>,
    ) -> Option<u32> {
        let item = Self::take(section, key)?;
        self.number_of(&item, bounds)
    }

    /// Reads a whole number within bounds.
    pub fn number_of(&mut self, item: &Item<'s>, bounds: Range<u64>) -> Option<u32> {
        let remedy = format!(
            "write a whole number from {} to {}",
            bounds.start,
            bounds.end - 1
        );
        let DeValue::Integer(number) = &item.value else {
            let problem = format!(
                "is {} and should be a whole number",
                article(item.value.type_str())
            );
            self.mistake(item.at, &item.key, problem, remedy);
            return None;
        };
        let found = u64::from_str_radix(number.as_str(), number.radix()).ok();
        match found
            .filter(|number| bounds.contains(number))
            .and_then(|number| u32::try_from(number).ok())
        {
            Some(number) => Some(number),
            None => {
                self.mistake(
                    item.at,
                    &item.key,
                    format!("{number} is out of range"),
                    remedy,
                );
                None
            }
        }
    }

    /// Complains about the keys that nobody asked for.
    pub fn close(&mut self, section: Section<'s>) {
        for (name, at, _) in &section.entries {
            let known = section.asked.join(", ");
            let remedy = match near(name, section.asked.iter().copied()) {
                Some(near) => format!("did you mean {near}?"),
                None => format!("remove it; known here: {known}"),
            };
            self.mistake(*at, &section.key(name), "is not a known key", remedy);
        }
    }
}

impl<'s> Section<'s> {
    fn new(path: String, table: Spanned<DeTable<'s>>) -> Self {
        let at = table.span().start;
        let entries = table
            .into_inner()
            .into_iter()
            .map(|(key, value)| (key.get_ref().to_string(), key.span().start, value))
            .collect();
        Self {
            path,
            at,
            entries,
            asked: Vec::new(),
            taken: Vec::new(),
        }
    }

    /// Where the table begins.
    pub fn at(&self) -> usize {
        self.at
    }

    /// The full name of a key in it.
    pub fn key(&self, key: &str) -> String {
        section_path(&self.path, key)
    }

    /// Whether a key that has been asked for was there, right or wrong.
    pub fn took(&self, key: &str) -> bool {
        self.taken.contains(&key)
    }

    /// Everything in it, for tables with free keys.
    pub fn into_items(self) -> Vec<(String, Item<'s>)> {
        let path = self.path;
        self.entries
            .into_iter()
            .map(|(name, at, value)| {
                let item = Item {
                    key: section_path(&path, &name),
                    at,
                    value: value.into_inner(),
                };
                (name, item)
            })
            .collect()
    }
}

fn section_path(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The known word that was probably meant.
pub fn near<'w>(word: &str, known: impl Iterator<Item = &'w str>) -> Option<&'w str> {
    known
        .map(|candidate| (distance(candidate, word), candidate))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= 2)
        .map(|(_, candidate)| candidate)
}

/// The name of a TOML type with its article.
#[must_use]
pub fn article(kind: &str) -> String {
    let vowel = kind.starts_with(['a', 'e', 'i', 'o', 'u']);
    format!("{} {kind}", if vowel { "an" } else { "a" })
}

/// How many letters must change to make one word of another.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, &b) in other.iter().enumerate() {
            let change = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}
