//! The level table of src/lib.rs, read from its documentation.

/// One room of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Room {
    pub level: u32,
    pub name: String,
    /// Third-party crates that no other room uses, as identifiers.
    pub owns: Vec<String>,
}

/// The whole table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    pub rooms: Vec<Room>,
}

impl Table {
    /// Reads the rows `| level | room | one job | only user of |`. A row may name several rooms.
    pub fn parse(lib: &str) -> Table {
        let mut rooms = Vec::new();
        for line in lib.lines() {
            let Some(row) = line.strip_prefix("//! |") else {
                continue;
            };
            let cells: Vec<&str> = row.trim_end().trim_end_matches('|').split('|').map(str::trim).collect();
            let [level, names, _job, owns] = cells.as_slice() else {
                continue;
            };
            let Ok(level) = level.parse() else {
                continue;
            };
            let owns: Vec<String> =
                owns.split(',').map(|name| name.trim().replace('-', "_")).filter(|name| !name.is_empty()).collect();
            for name in names.split(',') {
                let name = name.trim().trim_matches(['[', ']', '`']).to_owned();
                rooms.push(Room { level, name, owns: owns.clone() });
            }
        }
        Table { rooms }
    }

    /// The room a source file belongs to: `src/units.rs`, `src/frame/view.rs`, `src/main.rs`, `src/bin/wanem.rs`.
    pub fn room_of(&self, path: &str) -> Option<&Room> {
        let inside = path.strip_prefix("src/")?.trim_end_matches(".rs");
        let depth = if inside.starts_with("bin/") { 2 } else { 1 };
        let name = inside.split('/').take(depth).collect::<Vec<_>>().join("/");
        self.rooms.iter().find(|room| room.name == name)
    }

    /// The rooms that own this third-party crate.
    pub fn owners_of<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Room> {
        self.rooms.iter().filter(move |room| room.owns.iter().any(|owned| owned == name))
    }
}
