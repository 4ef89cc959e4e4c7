//! Parses a document: its fenced blocks and its headings. Must not know how the blocks are run
//! (`session`). Start with [`parse`].

/// The use of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Marked `sh`: commands, which must succeed.
    Script,
    /// Marked `console`: commands after `$ `, each with its output below.
    Console,
    /// Anything else: for the reader.
    Shown,
}

/// A fenced block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    pub kind: Kind,
    /// The line of its opening fence, from 1.
    pub line: usize,
    pub lines: Vec<String>,
}

/// The fenced blocks of a document.
///
/// # Errors
///
/// A block has no known mark, or does not end.
pub fn parse(text: &str) -> Result<Vec<Block>, String> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut is_open = false;
    for (at, line) in text.lines().enumerate() {
        let fence = line.strip_prefix("```");
        match (fence, is_open) {
            (Some(mark), false) => {
                let kind = match mark {
                    "sh" => Kind::Script,
                    "console" => Kind::Console,
                    "text" | "toml" | "json" | "ini" => Kind::Shown,
                    _ => return Err(format!("line {}: a block marked {mark:?}", at + 1)),
                };
                blocks.push(Block {
                    kind,
                    line: at + 1,
                    lines: Vec::new(),
                });
                is_open = true;
            }
            (Some(_), true) => is_open = false,
            (None, true) => blocks
                .last_mut()
                .expect("an open block")
                .lines
                .push(line.to_string()),
            (None, false) => {}
        }
    }
    if is_open {
        return Err("a block does not end".into());
    }
    Ok(blocks)
}

/// The headings of a document, without their `#`.
pub fn headings(text: &str) -> impl Iterator<Item = &str> {
    let mut is_in_block = false;
    text.lines().filter_map(move |line| {
        if line.starts_with("```") {
            is_in_block = !is_in_block;
        }
        let text = line.trim_start_matches('#').strip_prefix(' ');
        text.filter(|_| !is_in_block && line.starts_with('#'))
    })
}

/// The anchor of a heading, as GitHub makes it.
pub fn anchor(heading: &str) -> String {
    let lower = heading.to_lowercase();
    let kept = lower
        .chars()
        .filter(|c| c.is_alphanumeric() || "-_ ".contains(*c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The commands of a console block, each with the lines that it prints.
///
/// # Errors
///
/// The block begins with something else than a command.
pub fn commands(lines: &[String]) -> Result<Vec<(&str, Vec<&str>)>, String> {
    let mut commands: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines {
        if let Some(command) = line.strip_prefix("$ ") {
            commands.push((command, Vec::new()));
        } else {
            let last = commands.last_mut();
            let (_, printed) = last.ok_or("the block does not begin with a command")?;
            printed.push(line);
        }
    }
    Ok(commands)
}

/// Whether `lines` are the lines that a document shows. In `shown`, `...` stands for any text, and
/// a line of it for any number of lines.
pub fn matches(shown: &[&str], lines: &[&str]) -> bool {
    let Some((first, rest)) = shown.split_first() else {
        return lines.is_empty();
    };
    if *first == "..." {
        return (0..=lines.len()).any(|skipped| matches(rest, &lines[skipped..]));
    }
    let Some((line, others)) = lines.split_first() else {
        return false;
    };
    matches_line(first, line) && matches(rest, others)
}

fn matches_line(shown: &str, line: &str) -> bool {
    let mut parts = shown.split("...");
    let first = parts.next().expect("split gives one");
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else {
        return rest.is_empty();
    };
    for part in parts {
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn wildcards_stand_for_text_and_for_lines() {
    assert!(matches(&["a...c"], &["abc"]));
    assert!(matches(&["a...c...", "..."], &["abcd"]));
    assert!(matches(&["...", "x"], &["1", "2", "x"]));
    assert!(!matches(&["a...c"], &["abd"]));
    assert!(!matches(&["a"], &["a", "b"]));
    assert!(!matches(&["aa...aa"], &["aaa"]));
}

#[test]
fn blocks_say_what_they_are() {
    let text = "# A `b` c\n```sh\nls\n```\n```console\n$ ls\na\n```\n";
    let blocks = parse(text).expect("two blocks");
    assert_eq!(blocks[0].kind, Kind::Script);
    assert_eq!(commands(&blocks[1].lines), Ok(vec![("ls", vec!["a"])]));
    assert!(parse("```\nls\n```\n").is_err());
    assert_eq!(headings(text).map(anchor).collect::<Vec<_>>(), ["a-b-c"]);
}
