//! Pieces of the page: escaped text, tables, figures, and the frame around them. All of it is well-formed XML,
//! too.

/// Text for between tags and inside quoted attributes.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // Neither HTML nor XML has a place for other control characters.
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// A cell of a table.
#[derive(Clone, Debug, Default)]
pub(super) struct Cell {
    text: String,
    range: Option<String>,
    class: &'static str,
    style: String,
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Cell { text: text.to_owned(), class: "text", ..Cell::default() }
    }

    pub(super) fn number(text: impl Into<String>) -> Self {
        Cell { text: text.into(), ..Cell::default() }
    }

    /// What is not known.
    pub(super) fn none() -> Self {
        Cell { text: "–".to_owned(), class: "none", ..Cell::default() }
    }

    /// Adds a smaller second line: where several values lie.
    pub(super) fn with_range(self, range: Option<String>) -> Self {
        Cell { range, ..self }
    }

    /// The class of the cell: `best`, `own`.
    pub(super) fn class(self, class: &'static str) -> Self {
        Cell { class, ..self }
    }

    /// Tints the cell: −1 is good, 1 is bad.
    pub(super) fn tint(self, badness: f64) -> Self {
        let rgb = if badness > 0.0 { "200,60,40" } else { "40,110,190" };
        let alpha = badness.abs().min(1.0) * 0.75;
        Cell { style: format!("background:rgba({rgb},{alpha:.2})"), ..self }
    }
}

/// A table; the first cell of each row heads it. `summary` is the number of rows at the end that sum up.
pub(super) fn table(head: &[String], rows: &[Vec<Cell>], summary: usize) -> String {
    let mut out = String::from("<div class=\"scroll\"><table>\n<thead><tr>");
    for name in head {
        out += &format!("<th scope=\"col\">{}</th>", escape(name));
    }
    out += "</tr></thead>\n<tbody>\n";
    for (i, row) in rows.iter().enumerate() {
        out += if i + summary == rows.len() && i > 0 { "<tr class=\"sum\">" } else { "<tr>" };
        for (j, cell) in row.iter().enumerate() {
            let tag = if j == 0 { "th scope=\"row\"" } else { "td" };
            let attribute = |name: &str, value: &str| match value {
                "" => String::new(),
                value => format!(" {name}=\"{}\"", escape(value)),
            };
            let range = cell.range.as_ref();
            out += &format!(
                "<{tag}{}{}>{}{}</{}>",
                attribute("class", cell.class),
                attribute("style", &cell.style),
                escape(&cell.text),
                range.map_or_else(String::new, |r| format!("<small>{}</small>", escape(r))),
                &tag[..2]
            );
        }
        out += "</tr>\n";
    }
    out + "</tbody></table></div>\n"
}

/// A paragraph of plain text.
pub(super) fn paragraph(text: &str) -> String {
    format!("<p>{}</p>\n", escape(text))
}

/// Terms and what they are.
pub(super) fn facts(facts: &[(String, String)]) -> String {
    let rows: String = facts
        .iter()
        .map(|(term, what)| format!("<dt>{}</dt><dd>{}</dd>\n", escape(term), escape(what)))
        .collect();
    format!("<dl>\n{rows}</dl>\n")
}

/// A drawing with its caption, and names of its colours.
pub(super) fn figure(drawing: &str, legend: &[(String, String)], caption: &str) -> String {
    let entry = |(colour, name): &(String, String)| {
        format!("<li><i style=\"background:{}\"></i>{}</li>", escape(colour), escape(name))
    };
    let entries: String = legend.iter().map(entry).collect();
    let legend = if entries.is_empty() { entries } else { format!("<ul>{entries}</ul>\n") };
    format!(
        "<figure>\n{drawing}\n{legend}<figcaption>{}</figcaption>\n</figure>\n",
        escape(caption)
    )
}

/// A part of the page: its anchor, its heading, and its content or a line that says what it would need.
#[derive(Debug)]
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    pub(super) body: Result<String, String>,
}

impl Section {
    /// A section with `body`; where that is empty, `without` says why.
    pub(super) fn new(id: &'static str, title: &'static str, body: String, without: &str) -> Self {
        let body = if body.is_empty() { Err(without.to_owned()) } else { Ok(body) };
        Section { id, title, body }
    }
}

/// The whole page.
pub(super) fn page(title: &str, head: &str, sections: &[Section]) -> String {
    let title = escape(title);
    let link = |s: &Section| format!("<a href=\"#{}\">{}</a>\n", s.id, escape(s.title));
    let links: String = sections.iter().filter(|s| s.body.is_ok()).map(link).collect();
    let nav = if links.is_empty() { links } else { format!("<nav>\n{links}</nav>\n") };
    let section = |s: &Section| match &s.body {
        Ok(body) => {
            let title = escape(s.title);
            format!("<section id=\"{}\">\n<h2>{title}</h2>\n{body}</section>\n", s.id)
        }
        Err(without) => {
            let (title, without) = (escape(s.title), escape(without));
            format!("<p class=\"without\"><b>{title}</b>: {without}</p>\n")
        }
    };
    let sections: String = sections.iter().map(section).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\"/>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"/>\n\
         <meta name=\"color-scheme\" content=\"light dark\"/>\n\
         <title>{title}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>{title}</h1>\n\
         {head}</header>\n{nav}<main>\n{sections}</main>\n</body>\n</html>\n"
    )
}

const STYLE: &str = include_str!("style.css");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_escapes() {
        assert_eq!(
            escape("<a href=\"x\">'&\u{1}\u{0}"),
            "&lt;a href=&quot;x&quot;&gt;&#39;&amp;\u{fffd}\u{fffd}"
        );
        let nasty = "\"><script>";
        let cells =
            vec![vec![Cell::text(nasty).with_range(Some(nasty.into())), Cell::number(nasty)]];
        let pieces = [
            table(&[nasty.into()], &cells, 1),
            paragraph(nasty),
            facts(&[(nasty.into(), nasty.into())]),
            figure("", &[(nasty.into(), nasty.into())], nasty),
            page(nasty, "", &[Section::new("x", "X", String::new(), nasty)]),
        ];
        for piece in pieces {
            assert!(!piece.contains("<script"), "{piece}");
        }
    }
}
