//! The registry of models on disk: `<root>/<name>/<version>/` with `model.bin` (the compiled
//! form), `manifest.json`, `card.md` and its plots; `<root>/<name>/current` names the version in
//! force. A version is the BLAKE3 of model and manifest, but for how it came about: what it is cannot be changed
//! unnoticed, and the same model made again is the same version.

use super::Model;
use super::compiled::{Compiled, Unreadable};
use super::manifest::Manifest;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

#[derive(Debug, Clone)]
pub struct Registry {
    root: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted<'a> {
    Current,
    Version(&'a str),
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("`{0}` is no name for a model: small letters, digits, `-` and `_`, 64 at most")]
    Name(String),
    #[error("`{0}` is no version: {VERSION_LENGTH} hexadecimal digits")]
    Version(String),
    #[error("model `{name}` has no version `{version}` in {}", root.display())]
    NotFound { root: PathBuf, name: String, version: String },
    #[error("model `{name}` in {} has no version in force", root.display())]
    NoCurrent { root: PathBuf, name: String },
    #[error("model `{name}` version {version} is in force: promote another first")]
    InForce { name: String, version: String },
    #[error("model `{name}` was trained on feature set {model}; the configuration has {configured}")]
    FeatureSet { name: String, model: String, configured: String },
    #[error("model `{name}` version {version} was changed after it was made: its content is {found}")]
    Tampered { name: String, version: String, found: String },
    #[error("model `{name}` version {version}: {why}")]
    Unreadable { name: String, version: String, why: Unreadable },
    #[error("manifest of model `{name}` version {version}: {why}")]
    Manifest { name: String, version: String, why: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

const VERSION_LENGTH: usize = 16;
/// Far more than any model or manifest of ours; a file beyond it is not one.
const LARGEST: u64 = 1 << 30;

impl Registry {
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Writes a version and returns its name; it is there whole or not at all. `card` holds
    /// further files by name (`card.md`, plots). A version that exists already is left as it is.
    ///
    /// # Errors
    /// When the model is unusable or cannot be written.
    pub fn add(
        &self,
        name: &str,
        model: &Compiled,
        manifest: &Manifest,
        card: &[(String, String)],
    ) -> Result<String, RegistryError> {
        let folder = self.folder(name)?;
        let unreadable = |why| RegistryError::Unreadable { name: name.into(), version: "(new)".into(), why };
        let bytes = model.encode().map_err(unreadable)?;
        let unwritable = |why: String| RegistryError::Manifest { name: name.into(), version: "(new)".into(), why };
        if manifest.feature_names.len() != model.width as usize {
            return Err(unwritable(format!(
                "{} feature names for {} features",
                manifest.feature_names.len(),
                model.width
            )));
        }
        let mut text = serde_json::to_vec_pretty(manifest).map_err(|e| unwritable(e.to_string()))?;
        text.push(b'\n');
        let version = version_of(&bytes, &text);
        let place = folder.join(&version);
        if place.exists() {
            return Ok(version);
        }
        let half = folder.join(format!(".{version}.half"));
        if half.exists() {
            fs::remove_dir_all(&half).map_err(at(&half))?;
        }
        fs::create_dir_all(&half).map_err(at(&half))?;
        write_durably(&half.join("model.bin"), &bytes)?;
        write_durably(&half.join("manifest.json"), &text)?;
        for (file, content) in card {
            write_durably(&half.join(file), content.as_bytes())?;
        }
        flush_folder(&half)?;
        fs::rename(&half, &place).map_err(at(&place))?;
        flush_folder(&folder)?;
        Ok(version)
    }

    /// Whether a model may be called so.
    ///
    /// # Errors
    /// What a name must be.
    pub fn check_name(&self, name: &str) -> Result<(), RegistryError> {
        self.folder(name).map(|_| ())
    }

    /// Puts a version in force, atomically.
    ///
    /// # Errors
    /// When the version is not there or damaged, or the pointer cannot be written.
    pub fn promote(&self, name: &str, version: &str) -> Result<(), RegistryError> {
        self.read(name, version)?;
        let folder = self.folder(name)?;
        let (pointer, half) = (folder.join("current"), folder.join(".current.half"));
        write_durably(&half, format!("{version}\n").as_bytes())?;
        fs::rename(&half, &pointer).map_err(at(&pointer))?;
        flush_folder(&folder)
    }

    /// The version in force.
    ///
    /// # Errors
    /// When there is none.
    pub fn current(&self, name: &str) -> Result<String, RegistryError> {
        let pointer = self.folder(name)?.join("current");
        match read_bounded(&pointer) {
            Ok(bytes) => Ok(String::from_utf8_lossy(&bytes).trim().to_owned()),
            Err(RegistryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                Err(RegistryError::NoCurrent { root: self.root.clone(), name: name.into() })
            }
            Err(other) => Err(other),
        }
    }

    /// All versions of a model, in the order of their names; none for a model that is not there.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn list(&self, name: &str) -> Result<Vec<String>, RegistryError> {
        let folder = self.folder(name)?;
        let entries = match fs::read_dir(&folder) {
            Err(none) if none.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            other => other.map_err(at(&folder))?,
        };
        let mut versions = Vec::new();
        for entry in entries {
            let name = entry.map_err(at(&folder))?.file_name().to_string_lossy().into_owned();
            if is_version(&name) {
                versions.push(name);
            }
        }
        versions.sort();
        Ok(versions)
    }

    /// The models that have a folder here, in the order of their names.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn names(&self) -> Result<Vec<String>, RegistryError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.root).map_err(at(&self.root))? {
            let name = entry.map_err(at(&self.root))?.file_name().to_string_lossy().into_owned();
            // Other files and folders may lie beside them.
            if self.folder(&name).is_ok() && !self.list(&name).unwrap_or_default().is_empty() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    /// Takes a version away. The one in force stays.
    ///
    /// # Errors
    /// When it is in force, not there, or cannot be removed.
    pub fn remove(&self, name: &str, version: &str) -> Result<(), RegistryError> {
        if !is_version(version) {
            return Err(RegistryError::Version(version.into()));
        }
        if self.current(name).is_ok_and(|current| current == version) {
            return Err(RegistryError::InForce { name: name.into(), version: version.into() });
        }
        let folder = self.folder(name)?;
        let (place, gone) = (folder.join(version), folder.join(format!(".{version}.gone")));
        if !place.is_dir() {
            let (root, name) = (self.root.clone(), name.into());
            return Err(RegistryError::NotFound { root, name, version: version.into() });
        }
        // Out of sight at once, so that none is ever seen half removed.
        fs::rename(&place, &gone).map_err(at(&place))?;
        fs::remove_dir_all(&gone).map_err(at(&gone))?;
        flush_folder(&folder)
    }

    /// Loads a model for rows of the feature set with this fingerprint.
    ///
    /// # Errors
    /// When it is not there, was changed, or was trained on another feature set.
    pub fn load(&self, name: &str, wanted: Wanted<'_>, feature_set: &str) -> Result<Model, RegistryError> {
        let version = match wanted {
            Wanted::Current => self.current(name)?,
            Wanted::Version(version) => version.to_owned(),
        };
        model(name, &version, self.read(name, &version)?, feature_set)
    }

    /// Model and manifest as stored, checked against the version.
    ///
    /// # Errors
    /// When it is not there, was changed or does not decode.
    pub fn read(&self, name: &str, version: &str) -> Result<(Compiled, Manifest), RegistryError> {
        if !is_version(version) {
            return Err(RegistryError::Version(version.into()));
        }
        let folder = self.folder(name)?.join(version);
        if !folder.is_dir() {
            return Err(RegistryError::NotFound {
                root: self.root.clone(),
                name: name.into(),
                version: version.into(),
            });
        }
        let (bytes, text) = (read_bounded(&folder.join("model.bin"))?, read_bounded(&folder.join("manifest.json"))?);
        decode(name, version, &bytes, &text)
    }

    fn folder(&self, name: &str) -> Result<PathBuf, RegistryError> {
        let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
        // A name is a folder's name: nothing in it may lead elsewhere.
        if name.is_empty() || name.len() > 64 || !name.bytes().all(plain) {
            return Err(RegistryError::Name(name.into()));
        }
        Ok(self.root.join(name))
    }
}

/// A model for rows of the feature set with this fingerprint.
///
/// # Errors
/// When it was trained on another feature set.
pub fn model(
    name: &str,
    version: &str,
    (compiled, manifest): (Compiled, Manifest),
    feature_set: &str,
) -> Result<Model, RegistryError> {
    if manifest.feature_set != feature_set {
        let (model, configured) = (manifest.feature_set, feature_set.to_owned());
        return Err(RegistryError::FeatureSet { name: name.into(), model, configured });
    }
    Model::new(name, version, compiled, manifest).map_err(|why| RegistryError::Unreadable {
        name: name.into(),
        version: version.into(),
        why,
    })
}

/// Model and manifest from the content of their files, checked against the version.
///
/// # Errors
/// When they were changed or do not decode.
pub fn decode(name: &str, version: &str, bytes: &[u8], text: &[u8]) -> Result<(Compiled, Manifest), RegistryError> {
    let found = version_of(bytes, text);
    let (name, version) = (name.to_owned(), version.to_owned());
    if found != version && older_version_of(bytes, text) != version {
        return Err(RegistryError::Tampered { name, version, found });
    }
    let manifest: Manifest = match serde_json::from_slice(text) {
        Ok(manifest) => manifest,
        Err(why) => return Err(RegistryError::Manifest { name, version, why: why.to_string() }),
    };
    match Compiled::decode(bytes) {
        Ok(compiled) if compiled.width as usize == manifest.feature_names.len() => Ok((compiled, manifest)),
        Ok(compiled) => {
            let why = format!("{} feature names for {} features", manifest.feature_names.len(), compiled.width);
            Err(RegistryError::Manifest { name, version, why })
        }
        Err(why) => Err(RegistryError::Unreadable { name, version, why }),
    }
}

fn is_version(text: &str) -> bool {
    text.len() == VERSION_LENGTH && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// The lines of a manifest that say how the model came about, not what it is.
const ORIGIN: [&str; 3] = ["  \"code_version\": ", "  \"command\": ", "  \"parent\": "];

/// A manifest is written with a line a key, and no text has a line break inside: lines so indented are top keys.
fn version_of(model: &[u8], manifest: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"caddis model 2\0").update(&(model.len() as u64).to_le_bytes()).update(model);
    for line in manifest.split_inclusive(|byte| *byte == b'\n') {
        if !ORIGIN.iter().any(|key| line.starts_with(key.as_bytes())) {
            hasher.update(line);
        }
    }
    shortened(&hasher)
}

/// As versions were once: of all of the manifest.
fn older_version_of(model: &[u8], manifest: &[u8]) -> String {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&(model.len() as u64).to_le_bytes()).update(model).update(manifest);
    shortened(&hasher)
}

fn shortened(hasher: &blake3::Hasher) -> String {
    hasher.finalize().to_hex().chars().take(VERSION_LENGTH).collect()
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> RegistryError {
    let path = path.to_owned();
    move |source| RegistryError::Io { path, source }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>, RegistryError> {
    let size = fs::metadata(path).map_err(at(path))?.len();
    if size > LARGEST {
        return Err(at(path)(io::Error::other(format!("{size} bytes are too many"))));
    }
    fs::read(path).map_err(at(path))
}

fn write_durably(path: &Path, bytes: &[u8]) -> Result<(), RegistryError> {
    let mut file = File::create(path).map_err(at(path))?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(at(path))
}

/// A rename is on the disk once its folder is.
fn flush_folder(path: &Path) -> Result<(), RegistryError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(at(path))
}

#[cfg(test)]
mod tests {
    use super::super::card::{self, tests::evaluated};
    use super::super::scorer::Scratch;
    use super::{Registry, RegistryError, Wanted};
    use std::fs;

    #[test]
    fn a_model_is_added_promoted_listed_and_loaded() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let (compiled, manifest, scores, labels) = evaluated();
        assert!(matches!(registry.current("baseline"), Err(RegistryError::NoCurrent { .. })));
        let card = card::make("baseline", &manifest, &scores, &labels).unwrap();
        let version = registry.add("baseline", &compiled, &manifest, &card).unwrap();
        assert_eq!(registry.add("baseline", &compiled, &manifest, &card).unwrap(), version, "the same again");
        registry.promote("baseline", &version).unwrap();
        assert_eq!(registry.list("baseline").unwrap(), std::slice::from_ref(&version));
        assert!(registry.list("other").unwrap().is_empty());

        let model = registry.load("baseline", Wanted::Current, "set").unwrap();
        assert_eq!((model.name(), model.version()), ("baseline", version.as_str()));
        assert_eq!(model.manifest, manifest);
        let mut out = [0.0];
        model.score_block(&[0.1, 0.2, f64::NAN, 0.4], 4, &mut out, &mut Scratch::default());
        assert!(out[0] > 0.0 && out[0] < 1.0);
    }

    #[test]
    fn a_version_that_is_not_in_force_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let (compiled, mut manifest, ..) = evaluated();
        let first = registry.add("m", &compiled, &manifest, &[]).unwrap();
        manifest.seed += 1;
        let second = registry.add("m", &compiled, &manifest, &[]).unwrap();
        fs::create_dir(folder.path().join("not a model")).unwrap();
        registry.promote("m", &first).unwrap();
        assert_eq!(registry.names().unwrap(), ["m"]);
        assert!(matches!(registry.remove("m", &first), Err(RegistryError::InForce { .. })));
        registry.remove("m", &second).unwrap();
        assert!(matches!(registry.remove("m", &second), Err(RegistryError::NotFound { .. })));
        assert_eq!(registry.list("m").unwrap(), [first]);
    }

    #[test]
    fn a_model_of_another_feature_set_says_both_fingerprints() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let (compiled, manifest, ..) = evaluated();
        let version = registry.add("m", &compiled, &manifest, &[]).unwrap();
        let error = registry.load("m", Wanted::Version(&version), "other").unwrap_err();
        assert_eq!(error.to_string(), "model `m` was trained on feature set set; the configuration has other");
    }

    #[test]
    fn a_version_is_what_the_model_is_not_how_it_came_about() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let (compiled, manifest, ..) = evaluated();
        let version = registry.add("m", &compiled, &manifest, &[]).unwrap();
        let mut again = manifest.clone();
        again.parent = Some(version.clone());
        again.command = "caddis train --promote".into();
        again.code_version = "9.9.9".into();
        assert_eq!(registry.add("m", &compiled, &again, &[]).unwrap(), version);
        let mut other = manifest.clone();
        other.thresholds.block = other.thresholds.block.next_up();
        assert_ne!(registry.add("m", &compiled, &other, &[]).unwrap(), version);
        let mut other = manifest;
        other.training_data = "other".into();
        assert_ne!(registry.add("m", &compiled, &other, &[]).unwrap(), version);
    }

    #[test]
    fn a_changed_file_is_noticed_and_names_cannot_leave_the_folder() {
        let folder = tempfile::tempdir().unwrap();
        let registry = Registry::new(folder.path());
        let (compiled, manifest, ..) = evaluated();
        let version = registry.add("m", &compiled, &manifest, &[]).unwrap();
        for file in ["model.bin", "manifest.json"] {
            let path = folder.path().join("m").join(&version).join(file);
            let good = fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 1;
            fs::write(&path, bad).unwrap();
            assert!(matches!(registry.read("m", &version), Err(RegistryError::Tampered { .. })));
            assert!(registry.promote("m", &version).is_err());
            fs::write(&path, good).unwrap();
        }
        assert!(matches!(registry.read("../m", &version), Err(RegistryError::Name(_))));
        assert!(matches!(registry.read("m", "../../x"), Err(RegistryError::Version(_))));
        assert!(matches!(registry.read("m", "0123456789abcdef"), Err(RegistryError::NotFound { .. })));
    }
}
