// SPDX-License-Identifier: MIT OR Apache-2.0

//! spdx: every source file says its license on the first line, or on the second
//! after `#!`. The plugin has QEMU's, whose interface it uses; everything else has ours.

use super::Finding;
use crate::check::source::Source;

const LICENSE: &str = "SPDX-License-Identifier: MIT OR Apache-2.0";
/// Where another one holds, and which.
const PLUGIN: (&str, &str) = ("xtask/plugin/", "SPDX-License-Identifier: GPL-2.0-or-later");

/// Finds files without it.
pub fn check(source: &Source) -> Vec<Finding> {
    let license = match source.path.starts_with(PLUGIN.0) {
        true => PLUGIN.1,
        false => LICENSE,
    };
    let shebang = source
        .lines
        .first()
        .is_some_and(|line| line.text.starts_with("#!/"));
    let line = usize::from(shebang);
    let found = source
        .lines
        .get(line)
        .is_some_and(|line| line.text.contains(license));
    if found || source.path.ends_with(".md") {
        return Vec::new();
    }
    vec![Finding::error(
        line + 1,
        format!("this line must be a comment with `{license}`"),
    )]
}

#[cfg(test)]
mod tests {
    use super::super::lines;
    use super::check;

    #[test]
    fn license_stands_first() {
        assert_eq!(
            lines(
                check,
                "a.rs",
                "// SPDX-License-Identifier: MIT OR Apache-2.0\n"
            ),
            [0; 0]
        );
        assert_eq!(
            lines(
                check,
                "a.ld",
                "/* SPDX-License-Identifier: MIT OR Apache-2.0 */\n"
            ),
            [0; 0]
        );
        assert_eq!(
            lines(
                check,
                "a.sh",
                "#!/bin/sh\n# SPDX-License-Identifier: MIT OR Apache-2.0\n"
            ),
            [0; 0]
        );
        assert_eq!(lines(check, "README.md", "# Title\n"), [0; 0]);
    }

    #[test]
    fn missing_and_late_licenses_are_found() {
        assert_eq!(lines(check, "a.rs", ""), [1]);
        assert_eq!(
            lines(
                check,
                "a.rs",
                "\n// SPDX-License-Identifier: MIT OR Apache-2.0\n"
            ),
            [1]
        );
        assert_eq!(lines(check, "a.sh", "#!/bin/sh\necho\n"), [2]);
        assert_eq!(
            lines(check, "a.toml", "# SPDX-License-Identifier: MIT\n"),
            [1]
        );
    }

    #[test]
    fn the_plugin_has_a_license_of_its_own() {
        let gpl = "// SPDX-License-Identifier: GPL-2.0-or-later\n";
        let ours = "// SPDX-License-Identifier: MIT OR Apache-2.0\n";
        assert_eq!(lines(check, "xtask/plugin/src/a.rs", gpl), [0; 0]);
        assert_eq!(lines(check, "xtask/plugin/src/a.rs", ours), [1]);
        assert_eq!(lines(check, "xtask/src/qemu/plugin.rs", gpl), [1]);
        assert_eq!(lines(check, "xtask/src/qemu/plugin.rs", ours), [0; 0]);
    }
}
