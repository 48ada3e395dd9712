//! The modules of the core depend on each other in one direction: what is written down stands below
//! who writes it, and no two files need each other, directly or through others.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use syn::visit::{self, Visit};

/// A module by its names from the root of the crate.
type Module = Vec<String>;

/// What one file says about itself and others. Code for tests is left out.
#[derive(Default)]
struct Source {
    /// What it brings into scope: a name, and the path that the name stands for.
    imports: BTreeMap<String, Vec<String>>,
    /// Every path that it names, those of its imports included.
    paths: Vec<Vec<String>>,
}

impl Source {
    /// Reads what a `use` brings in. What it passes on to others (`pub use`) is not a need of its own.
    fn import(&mut self, mut before: Vec<String>, tree: &syn::UseTree, own: bool) {
        match tree {
            syn::UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.import(before, &path.tree, own);
            }
            syn::UseTree::Group(group) => {
                for tree in &group.items {
                    self.import(before.clone(), tree, own);
                }
            }
            syn::UseTree::Name(name) if name.ident == "self" => {
                self.bring(before.last().cloned().unwrap_or_default(), before, own);
            }
            syn::UseTree::Name(name) => {
                before.push(name.ident.to_string());
                self.bring(name.ident.to_string(), before, own);
            }
            syn::UseTree::Rename(rename) => {
                before.push(rename.ident.to_string());
                self.bring(rename.rename.to_string(), before, own);
            }
            // A glob brings names that are found in the module itself.
            syn::UseTree::Glob(_) => self.paths.push(before),
        }
    }

    fn bring(&mut self, name: String, path: Vec<String>, own: bool) {
        if own {
            self.paths.push(path.clone());
        }
        self.imports.insert(name, path);
    }
}

/// Whether an item is for tests only.
fn is_for_tests(attributes: &[syn::Attribute]) -> bool {
    let names_test = |a: &syn::Attribute| {
        a.path().is_ident("cfg") && a.parse_args::<syn::Ident>().is_ok_and(|what| what == "test")
    };
    attributes.iter().any(names_test)
}

impl<'ast> Visit<'ast> for Source {
    fn visit_item_mod(&mut self, item: &'ast syn::ItemMod) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast syn::ItemFn) {
        if !is_for_tests(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        let own = matches!(item.vis, syn::Visibility::Inherited);
        self.import(Vec::new(), &item.tree, own);
    }

    /// Who may name an item is no need of the item.
    fn visit_visibility(&mut self, _: &'ast syn::Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.paths.push(path.segments.iter().map(|s| s.ident.to_string()).collect());
        visit::visit_path(self, path);
    }
}

/// The files of a directory and all below it.
fn files(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the directory is readable") {
        let path = entry.expect("the entry is readable").path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn module_of(file: &Path) -> Module {
    let mut module: Module =
        file.with_extension("").iter().map(|name| name.to_string_lossy().into_owned()).collect();
    if module.last().is_some_and(|last| last == "mod" || last == "lib") {
        module.pop();
    }
    module
}

/// Every module with what its file says, and without those of tests.
fn sources() -> BTreeMap<Module, Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    files(&root, &mut found);
    let mut sources = BTreeMap::new();
    for file in found {
        let module = module_of(file.strip_prefix(&root).expect("it was found below"));
        if module.iter().any(|name| name == "tests") {
            continue;
        }
        let mut source = Source::default();
        let text = fs::read_to_string(&file).expect("the file is readable");
        source.visit_file(&syn::parse_file(&text).expect("what compiles is parsed"));
        sources.insert(module, source);
    }
    sources
}

/// The module whose file defines what `path` names in `module`, through whatever the modules on the
/// way bring into scope; `None` if it is nothing of this crate.
fn definer(
    sources: &BTreeMap<Module, Source>,
    module: &Module,
    path: &[String],
    depth: usize,
) -> Option<Module> {
    let (first, rest) = path.split_first()?;
    let mut at = match first.as_str() {
        "crate" => Vec::new(),
        "self" => module.clone(),
        "super" => module.split_last().map(|(_, above)| above.to_vec())?,
        name => {
            let child: Module = [module.as_slice(), &[name.to_owned()]].concat();
            // A name alone is no module's: it may be that of a variable.
            if !rest.is_empty() && sources.contains_key(&child) {
                child
            } else {
                let import = sources[module].imports.get(name)?;
                if depth == 0 || import.as_slice() == path {
                    return None;
                }
                let whole: Vec<_> = import.iter().chain(rest).cloned().collect();
                return definer(sources, module, &whole, depth - 1);
            }
        }
    };
    for (index, name) in rest.iter().enumerate() {
        if name == "super" {
            at.pop();
            continue;
        }
        let child: Module = [at.as_slice(), std::slice::from_ref(name)].concat();
        if sources.contains_key(&child) {
            at = child;
        } else if depth > 0 && sources[&at].imports.contains_key(name) {
            return definer(sources, &at, &rest[index..], depth - 1);
        } else {
            break;
        }
    }
    Some(at)
}

/// Which modules each one names something of.
fn needs() -> BTreeMap<Module, BTreeSet<Module>> {
    let sources = sources();
    let mut needs: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
    for (module, source) in &sources {
        let found = source.paths.iter().filter_map(|path| definer(&sources, module, path, 8));
        let others: Vec<_> = found.filter(|other| other != module && !other.is_empty()).collect();
        needs.entry(module.clone()).or_default().extend(others);
    }
    needs
}

/// What can be reached from a module.
fn reached(needs: &BTreeMap<Module, BTreeSet<Module>>, from: &Module) -> BTreeSet<Module> {
    let mut reached = BTreeSet::new();
    let mut open = vec![from];
    while let Some(module) = open.pop() {
        for next in &needs[module] {
            if reached.insert(next.clone()) {
                open.push(next);
            }
        }
    }
    reached
}

#[test]
fn no_two_files_of_the_core_need_each_other() {
    let needs = needs();
    let reach: BTreeMap<_, _> = needs.keys().map(|m| (m.clone(), reached(&needs, m))).collect();
    let in_circle = |m: &&Module| reach[*m].contains(*m);
    let circle: BTreeSet<_> = needs.keys().filter(in_circle).collect();
    let arrows = circle.iter().flat_map(|from| {
        let back = |to: &&Module| reach[*to].contains(*from);
        needs[*from]
            .iter()
            .filter(back)
            .map(move |to| format!("{} → {}", from.join("/"), to.join("/")))
    });
    let arrows: Vec<_> = arrows.collect();
    assert!(circle.is_empty(), "{} files form circles:\n{}", circle.len(), arrows.join("\n"));
}

#[test]
fn what_each_file_needs_is_found() {
    let needs = needs();
    let has = |from: &str, to: &[&str]| {
        let to: Module = to.iter().map(|&name| name.to_owned()).collect();
        needs[&vec![from.to_owned()]].contains(&to)
    };
    // By a name that a parent brings into scope, by a path in an expression, by a module.
    assert!(has("effect", &["model", "ids"]));
    assert!(has("balancer", &["host"]));
    assert!(!has("reason", &["balancer"]));
    assert!(needs.len() > 50, "{} modules", needs.len());
}

#[test]
fn the_code_map_names_every_module() {
    let page = include_str!("../../../ARCHITECTURE.md");
    let map = page.split("## Code map of the core").nth(1).expect("the page has a code map");
    let map = map.split("\n## ").next().unwrap_or_default();
    let rows = map.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    let told: BTreeSet<_> = rows.map(str::to_owned).collect();
    let sources = sources();
    let modules = sources.keys().filter(|module| module.len() == 1).map(|module| module[0].clone());
    let modules: BTreeSet<_> = modules.collect();
    assert_eq!(told, modules, "the code map of ARCHITECTURE.md and the modules of the core");
}
