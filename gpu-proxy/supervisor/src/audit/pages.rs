//! The pages that workers write their calls to, kept until the auditor says that it has everything in them.
//!
//! The auditor gets each of them from every supervisor's greeting on: one that is started again goes on where the
//! log says that another ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use proxy_audit::block::Zone;
use proxy_audit::wire::{Collection, ToAuditor};
use proxy_channel::calls::{CallPage, SLOTS};

/// Pages of clients who have gone that are kept of one zone while the auditor is away.
const MAX_FINISHED: usize = 64;

/// All pages that are not collected.
#[derive(Debug, Default)]
pub(super) struct Pages(BTreeMap<u64, Page>);

#[derive(Debug)]
struct Page {
    page: Arc<CallPage>,
    collection: Collection,
    /// The number of the first event after its client could call.
    collected_from: Option<u64>,
    /// The number of the first event after its worker went.
    finished: Option<u64>,
    /// Its worker found it full.
    behind: bool,
    told: Told,
}

/// What the auditor that is connected was told of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    Collect,
    Finish,
}

impl Pages {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Keeps a new client's.
    pub(super) fn add(&mut self, collection: Collection, page: Arc<CallPage>) {
        let page = Page {
            page,
            collected_from: None,
            finished: None,
            behind: false,
            told: Told::Nothing,
            collection,
        };
        self.0.insert(page.collection.client, page);
    }

    /// The client may call, before the event of that number.
    pub(super) fn collect(&mut self, at: u64, client: u64) {
        if let Some(page) = self.0.get_mut(&client) {
            page.collected_from.get_or_insert(at);
        }
    }

    /// The client's worker was gone, or never had it, before the event of that number.
    pub(super) fn finish(&mut self, at: u64, client: u64) {
        if let Some(page) = self.0.get_mut(&client) {
            page.collected_from.get_or_insert(at);
            page.finished.get_or_insert(at);
        }
    }

    /// The client's worker found it full: nobody takes calls out of it.
    pub(super) fn mark_behind(&mut self, client: u64) {
        if let Some(page) = self.0.get_mut(&client) {
            page.behind = true;
        }
    }

    /// Whether pages of the zone are full that somebody writes to. One that is half empty again is not.
    pub(super) fn is_behind(&mut self, zone: &Zone) -> bool {
        let mut any = false;
        for page in self.0.values_mut() {
            page.behind &= page.finished.is_none() && page.page.unread() > SLOTS as u64 / 2;
            any |= page.behind && page.collection.zone == *zone;
        }
        any
    }

    /// Whether some page was found full.
    pub(super) fn any_behind(&self) -> bool {
        self.0.values().any(|page| page.behind)
    }

    /// The auditor has all of it; false if it cannot have.
    pub(super) fn collected(&mut self, client: u64) -> bool {
        let told = self.0.get(&client).map(|page| page.told);
        // Sent again to one auditor after another, it may be said twice.
        if told == Some(Told::Finish) {
            self.0.remove(&client);
        }
        told.is_none_or(|told| told == Told::Finish)
    }

    /// Another auditor knows nothing.
    pub(super) fn forget_told(&mut self) {
        let pages = self.0.values_mut();
        pages.for_each(|page| page.told = Told::Nothing);
    }

    /// Whether a zone has a client whose calls are written down.
    pub(super) fn has_live(&self, zone: &Zone) -> bool {
        let mut pages = self.0.values();
        pages.any(|page| page.finished.is_none() && page.collection.zone == *zone)
    }

    /// Whether the zone has as many pages of clients who have gone as are kept.
    pub(super) fn is_full(&self, zone: &Zone) -> bool {
        self.finished(zone).count() >= MAX_FINISHED
    }

    /// Lets go of a zone's oldest page where there are too many; tells how many calls are lost with it.
    pub(super) fn drop_one_too_many(&mut self, zone: &Zone) -> Option<u64> {
        let oldest = match self.is_full(zone) {
            true => self.finished(zone).next()?,
            false => return None,
        };
        let page = self.0.remove(&oldest)?;
        Some(page.page.unread())
    }

    fn finished<'p>(&'p self, zone: &'p Zone) -> impl Iterator<Item = u64> + 'p {
        let of_zone = |page: &&Page| page.finished.is_some() && page.collection.zone == *zone;
        let pages = self.0.values();
        pages.filter(of_zone).map(|page| page.collection.client)
    }

    /// The next thing that the auditor is to be told before the event of that number, or at all; with the page if it
    /// goes along.
    pub(super) fn next(&self, before: Option<u64>) -> Option<(ToAuditor, Option<&CallPage>)> {
        let is_due = |at: u64| before.is_none_or(|before| at <= before);
        self.0.values().find_map(|page| match page.told {
            Told::Nothing if page.collected_from.is_some_and(is_due) => {
                let collection = Box::new(page.collection.clone());
                Some((ToAuditor::Collect(collection), Some(&*page.page)))
            }
            Told::Collect if page.finished.is_some_and(is_due) => {
                let client = page.collection.client;
                Some((ToAuditor::Finish { client }, None))
            }
            Told::Nothing | Told::Collect | Told::Finish => None,
        })
    }

    /// It was told.
    pub(super) fn told(&mut self, message: &ToAuditor) {
        let (client, told) = match message {
            ToAuditor::Collect(collection) => (collection.client, Told::Collect),
            ToAuditor::Finish { client } => (*client, Told::Finish),
            ToAuditor::Hello { .. } | ToAuditor::Submit(_) => return,
        };
        if let Some(page) = self.0.get_mut(&client) {
            page.told = told;
        }
    }
}

#[cfg(test)]
mod tests {
    use proxy_audit::wire::Detail;

    use super::*;

    fn add(pages: &mut Pages, at: u64, client: u64) {
        let collection = Collection {
            client,
            worker: 1,
            zone: "a".parse().unwrap(),
            detail: Detail::Every,
            since_ns: 0,
        };
        pages.add(collection, Arc::new(CallPage::create().unwrap()));
        pages.collect(at, client);
    }

    fn tell_all(pages: &mut Pages) -> Vec<(u64, bool)> {
        tell_before(pages, None)
    }

    fn tell_before(pages: &mut Pages, event: Option<u64>) -> Vec<(u64, bool)> {
        let mut told = Vec::new();
        while let Some((message, page)) = pages.next(event) {
            told.push(match &message {
                ToAuditor::Collect(collection) => (collection.client, page.is_some()),
                ToAuditor::Finish { client } => (*client, page.is_some()),
                other => panic!("{other:?}"),
            });
            pages.told(&message);
        }
        told
    }

    #[test]
    fn each_auditor_is_told_of_all_that_is_not_collected() {
        let mut pages = Pages::default();
        add(&mut pages, 0, 1);
        add(&mut pages, 0, 2);
        pages.finish(0, 1);
        assert_eq!(tell_all(&mut pages), [(1, true), (1, false), (2, true)]);
        assert_eq!(tell_all(&mut pages), []);
        pages.forget_told();
        assert!(!pages.collected(1), "this one does not even have it");
        assert_eq!(tell_all(&mut pages), [(1, true), (1, false), (2, true)]);
        assert!(pages.collected(1));
        assert!(pages.collected(1), "said again");
        assert!(!pages.collected(2), "it is not over");
        pages.finish(0, 2);
        assert_eq!(tell_all(&mut pages), [(2, false)]);
        assert!(pages.collected(2) && pages.is_empty());
    }

    #[test]
    fn an_auditor_that_comes_late_is_told_in_order() {
        let mut pages = Pages::default();
        let [attach, other, detach] = [7, 8, 9].map(Some);
        add(&mut pages, 8, 1);
        pages.finish(9, 1);
        assert_eq!(tell_before(&mut pages, attach), []);
        assert_eq!(tell_before(&mut pages, other), [(1, true)]);
        assert_eq!(tell_before(&mut pages, detach), [(1, false)]);
        pages.forget_told();
        assert_eq!(tell_all(&mut pages), [(1, true), (1, false)]);
    }

    #[test]
    fn a_zone_keeps_so_many_pages_of_clients_who_have_gone() {
        let mut pages = Pages::default();
        let zone: Zone = "a".parse().unwrap();
        for client in 0..MAX_FINISHED as u64 {
            add(&mut pages, 0, client);
            assert_eq!(pages.drop_one_too_many(&zone), None);
            assert!(pages.has_live(&zone));
            pages.finish(0, client);
        }
        assert!(pages.is_full(&zone) && !pages.has_live(&zone));
        assert_eq!(pages.drop_one_too_many(&zone), Some(0));
        assert!(!pages.is_full(&zone));
    }
}
