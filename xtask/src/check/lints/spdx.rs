// SPDX-License-Identifier: MIT OR Apache-2.0

//! spdx: every source file says its license on the first line, or on the second after `#!`. The
//! plugin has QEMU's license, because it uses QEMU's interface; everything else has ours.

use super::Finding;
use crate::check::source::Source;

const LICENSE: &str = "SPDX-License-Identifier: MIT OR Apache-2.0";
const PLUGIN: &str = "xtask/plugin/";
const LICENSE_OF_PLUGIN: &str = "SPDX-License-Identifier: GPL-2.0-or-later";

/// Finds files without it.
pub fn check(source: &Source) -> Vec<Finding> {
    let license = match source.path.starts_with(PLUGIN) {
        true => LICENSE_OF_PLUGIN,
        false => LICENSE,
    };
    let text = |line: usize| source.lines.get(line).map_or("", |line| line.text.as_str());
    let line = usize::from(text(0).starts_with("#!/"));
    if source.path.ends_with(".md") || text(line).contains(license) {
        return Vec::new();
    }
    let message = format!("this line must be a comment with `{license}`");
    vec![Finding::error(line + 1, message)]
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
