//! The Merkle tree of RFC 9162 §2.1 with SHA-256.

use aws_lc_rs::digest::{SHA256, digest};

/// A SHA-256 value.
pub type Hash = [u8; 32];

/// SHA-256 of `data`.
pub fn sha256(data: &[u8]) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, data).as_ref());
    hash
}

/// The hash of an inner node (RFC 9162 §2.1.1): SHA-256(0x01 ‖ left ‖ right).
pub fn node(left: &Hash, right: &Hash) -> Hash {
    let mut bytes = [0x01; 65];
    bytes[1..33].copy_from_slice(left);
    bytes[33..].copy_from_slice(right);
    sha256(&bytes)
}

/// The largest power of two smaller than `length`, which is at least 2.
fn split(length: usize) -> usize {
    1 << (length - 1).ilog2()
}

/// The root over `leaves` (RFC 9162 §2.1.1); of none, the hash of nothing.
pub fn root(leaves: &[Hash]) -> Hash {
    match leaves {
        [] => sha256(&[]),
        [leaf] => *leaf,
        _ => {
            let (left, right) = leaves.split_at(split(leaves.len()));
            node(&root(left), &root(right))
        }
    }
}

/// The audit path of leaf `index`, from the leaf upwards (RFC 9162 §2.1.3.1); `None` if there is no such leaf.
pub fn audit_path(leaves: &[Hash], index: usize) -> Option<Vec<Hash>> {
    if index >= leaves.len() {
        return None;
    }
    let mut path = Vec::new();
    let (mut leaves, mut index) = (leaves, index);
    while leaves.len() > 1 {
        let (left, right) = leaves.split_at(split(leaves.len()));
        if index < left.len() {
            path.push(root(right));
            leaves = left;
        } else {
            path.push(root(left));
            index -= left.len();
            leaves = right;
        }
    }
    path.reverse();
    Some(path)
}

/// The root that `path` leads to from leaf `index` of `size` (RFC 9162 §2.1.3.2); `None` if the path does not fit the tree.
pub fn root_of_path(leaf: &Hash, index: u64, size: u64, path: &[Hash]) -> Option<Hash> {
    if index >= size {
        return None;
    }
    let (mut node_index, mut last) = (index, size - 1);
    let mut hash = *leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if node_index & 1 == 1 || node_index == last {
            hash = node(sibling, &hash);
            while node_index & 1 == 0 && node_index != 0 {
                node_index >>= 1;
                last >>= 1;
            }
        } else {
            hash = node(&hash, sibling);
        }
        node_index >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(hash)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn leaves(count: usize) -> Vec<Hash> {
        (0..count)
            .map(|index| sha256(&(index as u64).to_be_bytes()))
            .collect()
    }

    #[test]
    fn shape_of_seven_leaves() {
        // RFC 9162 §2.1.5 draws this tree: ((01)(23))((45)6).
        let l = leaves(7);
        let left = node(&node(&l[0], &l[1]), &node(&l[2], &l[3]));
        let right = node(&node(&l[4], &l[5]), &l[6]);
        assert_eq!(root(&l), node(&left, &right));
        assert_eq!(audit_path(&l, 6).unwrap(), vec![node(&l[4], &l[5]), left]);
        assert_eq!(audit_path(&l, 7), None);
    }

    #[test]
    fn every_leaf_of_small_trees_has_a_path() {
        for size in 1..=65 {
            let l = leaves(size);
            for (index, leaf) in l.iter().enumerate() {
                let path = audit_path(&l, index).unwrap();
                assert_eq!(
                    root_of_path(leaf, index as u64, size as u64, &path),
                    Some(root(&l)),
                    "{index} of {size}"
                );
            }
        }
    }

    proptest! {
        #[test]
        fn a_path_proves_only_its_own_leaf_and_place(size in 1usize..300, index: prop::sample::Index, other: prop::sample::Index) {
            let l = leaves(size);
            let (index, other) = (index.index(size), other.index(size));
            let path = audit_path(&l, index).unwrap();
            prop_assert_eq!(root_of_path(&l[index], index as u64, size as u64, &path), Some(root(&l)));
            if other != index {
                prop_assert_ne!(root_of_path(&l[other], index as u64, size as u64, &path), Some(root(&l)));
                prop_assert_ne!(root_of_path(&l[index], other as u64, size as u64, &path), Some(root(&l)));
            }
            let mut longer = path.clone();
            longer.push([0; 32]);
            prop_assert_eq!(root_of_path(&l[index], index as u64, size as u64, &longer), None);
            if !path.is_empty() {
                prop_assert_ne!(root_of_path(&l[index], index as u64, size as u64, &path[1..]), Some(root(&l)));
            }
        }
    }
}
