use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;

/// A file of its own for each test.
struct File(PathBuf);

impl File {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("evenkeel-resolv-conf-{}-{next}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn write(&self, text: &str) {
        fs::write(&self.0, text).unwrap();
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

fn read_now(system: &System) -> Result<(String, Search), DiscoverError> {
    let configured = system.read()?;
    Ok((format!("{:?}", configured.servers), configured.search.clone()))
}

fn search(domains: &[&str], ndots: usize) -> Search {
    Search::new(domains.iter().map(|domain| domain.parse().unwrap()).collect(), ndots)
}

/// R13: a changed resolv.conf is seen; one that is the same keeps its servers and what is known of
/// them; one that cannot be understood leaves the last.
#[tokio::test]
async fn r13_a_changed_resolv_conf_is_seen() {
    let file = File::new();
    let system = System::new(file.0.clone(), false, Clock::default());
    file.write("search a.example b.example\nnameserver 10.0.0.1\noptions ndots:5 timeout:2\n");
    let first = (String::from("[10.0.0.1:53]"), search(&["a.example", "b.example"], 5));
    assert_eq!(read_now(&system).unwrap(), first);
    let before = Arc::clone(&system.read().unwrap().servers);
    assert!(Arc::ptr_eq(&before, &system.read().unwrap().servers));
    // The same length, and perhaps the same second.
    file.write("search a.example b.example\nnameserver 10.0.0.2\noptions ndots:5 timeout:2\n");
    assert_eq!(read_now(&system).unwrap().0, "[10.0.0.2:53]");
    file.write("nameserver 10.0.0.3\nnameserver ::1\nnameserver 10.0.0.4\ndomain c.example\n");
    let third = (String::from("[10.0.0.3:53, [::1]:53, 10.0.0.4:53]"), search(&["c.example"], 1));
    assert_eq!(read_now(&system).unwrap(), third);
    // What cannot be read leaves the last: a directory in its place.
    fs::remove_file(&file.0).unwrap();
    fs::create_dir(&file.0).unwrap();
    assert_eq!(read_now(&system).unwrap(), third);
    fs::remove_dir(&file.0).unwrap();
}

/// R13: a file that is replaced by a rename, as resolvconf and kubelet do, is seen; one that is
/// emptied, or gone for a moment, names no server, which is this machine as for glibc; what nobody
/// understands is passed over, as there.
#[tokio::test]
async fn r13_resolv_conf_is_replaced_emptied_and_garbled() {
    let file = File::new();
    let next = File::new();
    let system = System::new(file.0.clone(), false, Clock::default());
    for last in 1..=3 {
        next.write(&format!("nameserver 10.0.0.{last}\n"));
        fs::rename(&next.0, &file.0).unwrap();
        assert_eq!(read_now(&system).unwrap().0, format!("[10.0.0.{last}:53]"));
    }
    file.write("");
    assert_eq!(read_now(&system).unwrap().0, "[127.0.0.1:53]");
    file.write("nameserver 10.0.0.9\n");
    assert_eq!(read_now(&system).unwrap().0, "[10.0.0.9:53]");
    fs::remove_file(&file.0).unwrap();
    assert_eq!(read_now(&system).unwrap().0, "[127.0.0.1:53]");
    fs::write(
        &file.0,
        b"\xff\xfe\nnonsense a b\noptions ndots:x timeout: attempts:3 no-such:1 edns0 trust-ad\n\
          nameserver 300.0.0.1\nsortlist 10.0.0.0\nnameserver 10.0.0.8\nsearch a.example\n",
    )
    .unwrap();
    let expected = (String::from("[10.0.0.8:53]"), search(&["a.example"], 1));
    assert_eq!(read_now(&system).unwrap(), expected);
}

/// R13: where no server is named it is the one of this machine, as for glibc, and never a public
/// one. hickory has public ones at hand.
#[tokio::test]
async fn r13_without_a_nameserver_it_is_this_machine_and_never_a_public_one() {
    let file = File::new();
    for text in
        [None, Some(""), Some("# nameserver 10.0.0.1\noptions ndots:3\n"), Some("nameserver\n")]
    {
        if let Some(text) = text {
            file.write(text);
        }
        let system = System::new(file.0.clone(), false, Clock::default());
        assert_eq!(read_now(&system).unwrap().0, "[127.0.0.1:53]", "{text:?}");
    }
    // Of several lists the last counts, and a search list is no domain.
    file.write("domain d.example\nsearch a.example\nsearch b.example\nnameserver 10.0.0.1\n");
    let system = System::new(file.0.clone(), false, Clock::default());
    assert_eq!(read_now(&system).unwrap().1, search(&["b.example"], 1));
}

#[tokio::test]
async fn what_cannot_be_read_at_first_is_an_error_that_names_the_file() {
    let directory = std::env::temp_dir();
    let system = System::new(directory.clone(), false, Clock::default());
    let error = read_now(&system).unwrap_err().to_string();
    assert!(error.contains(directory.to_str().unwrap()), "{error}");
}
